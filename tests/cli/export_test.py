"""Exporting weights of a run and importing them into another: bits, heads, averages, refusals."""

import ast
import contextlib
import io
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.cli import run
from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.run import pretrained, roles
from ssl_jax.run.commands.export import RestoredRun
from ssl_jax.run.configs import load_config, methods, override, recipes
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import workdir
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.weights import conversion, files, networks
from tests.run.pretrained_test import assert_equal, experiment, started
from tests.weights.releases_test import plain, prefixed, sequential


def saved(folder, method, *overrides):
    """Save a checkpoint with random values everywhere; return its experiment and state."""
    run = experiment(method, *overrides)
    draws = np.random.default_rng(0)

    def draw(like):
        floating = like.dtype.kind == "f"
        return np.asarray(
            draws.normal(size=like.shape) if floating else np.zeros(like.shape), like.dtype
        )

    current = jax.tree.map(draw, run.abstract_state)
    write_json(folder / "config.json", run.resolved())
    write_json(folder / "summary.json", {"eval/knn_top1": 0.5, "train/loss": 1, "step": 3})
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(3, jax.device_put(current), {"data": "abc", "versions": {"jax": "1"}})
    return run, current


def command(*argv):
    """Run a subcommand; return its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(argv))
    return code, out.getvalue(), err.getvalue()


class PartsTest(parameterized.TestCase):
    @parameterized.named_parameters((f"_{name}", name) for name in methods())
    def test_every_method(self, method):
        """Check that the average's names are among the trained network's; the encoder is one of
        both.
        """
        config = load_config(f"{method}:{recipes(method)[0]}")
        override(config, [("train.batch_size", 16), ("train.steps", 4)])
        objective = Experiment.from_config(config).objective
        params, extra = jax.eval_shape(objective.init, jax.random.key(0))
        variables, rest = roles.networks(objective, params, extra)
        role = roles.encoder_of(variables, objective.encoder(params, extra).params)
        self.assertIn(role, variables)
        self.assertTrue(any(path.startswith("backbone/") for path in variables[role]))
        self.assertLessEqual(set(variables.get("teacher", {})), set(variables["student"]))
        average = [n for n in extra if n in ("teacher", "target", "key_encoder", "average")]
        self.assertEqual("teacher" in variables, bool(average))
        # Fixed networks are other runs'; statistics of a task are those of its copy of the trunk.
        others = [
            path
            for path in rest
            if "backbone/" in path
            and not path.startswith("extra/fixed/")
            and "/stats/backbone/" not in path
        ]
        self.assertFalse(others, "a network that is in neither")


class ExportTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.work = self.folder / "w"
        self.work.mkdir()

    def export(self, name, **flags):
        output = self.folder / name
        options = [f"--{key}={value}" for key, value in flags.items()]
        code, _, err = command("export", f"--workdir={self.work}", f"--output={output}", *options)
        self.assertEqual((code, err), (0, ""))
        return output

    @parameterized.parameters(
        ("byol", "safetensors"), ("dino", "npz"), ("moco_v2", "orbax"), ("swav", "safetensors")
    )
    def test_all_of_a_run_and_back(self, method, kind):
        _, current = saved(self.work, method)
        name = "all" if kind == "orbax" else f"all.{kind}"
        output = self.export(name, format=kind, part="all")
        again = experiment(method, ("train.init_from", str(output)))
        pretrained.check(again)
        restored = started(again)
        assert_equal(restored.params, current.params)
        assert_equal(restored.extra, current.extra)
        self.assertEqual(int(restored.step), 0)

    @parameterized.parameters({"data": 2, "fsdp": 4})
    def test_another_method_starts_from_the_network_that_is_kept(self, **mesh):
        _, current = saved(self.work, "dino")
        output = self.export("all.safetensors", format="safetensors", part="all")
        restored = started(experiment("simclr", ("train.init_from", str(output)), **mesh))
        assert_equal(restored.params["backbone"], current.extra["teacher"]["backbone"])
        # One that has an average too: student to trained network, teacher to its average.
        restored = started(experiment("byol", ("train.init_from", str(output)), **mesh))
        assert_equal(restored.params["backbone"], current.params["backbone"])
        assert_equal(restored.extra["target"]["backbone"], current.extra["teacher"]["backbone"])

    def test_backbone_of_student_and_teacher(self):
        run, current = saved(self.work, "byol")
        run_ = RestoredRun.restored(self.work, 3)
        target = current.extra["target"]
        for role, own in (("student", current.params), ("teacher", target)):
            tensors, card = run_.tensors("backbone", role)
            weights = networks.of_file(files.TensorFile(tensors, card), "F")
            params, _ = weights.variables()
            assert_equal(params, own["backbone"])
            self.assertEqual((weights.heads, weights.encoder), ((), role))
        backbone = networks.of_file(files.TensorFile(*run_.tensors("backbone", "")), "F")
        encoder = run.objective.encoder(current.params, current.extra)
        assert_equal(backbone.variables(), (encoder.params, encoder.stats))
        heads, _ = run_.tensors("all", "teacher")
        expected = conversion.flat(target, current.extra["target_stats"])
        self.assertEqual(set(heads), set(expected))

    @parameterized.parameters("cmc", "split_brain")
    def test_networks_side_by_side_are_read_from_the_run_only(self, method):
        saved(self.work, method)
        output = self.export("m.safetensors", format="safetensors")
        flags = (f"--output={self.folder / 'e.npz'}", f"--weights={output}", "--data=photos")
        code, _, err = command("embed", *flags)
        self.assertEqual(code, 2)
        self.assertRegex(err, r"\A.*m.safetensors: its backbone is made of .*\n\Z")
        with self.assertRaisesRegex(UserError, "init_from: .* name the run's folder instead"):
            pretrained.check(experiment(method, ("train.init_from", str(output))))
        pretrained.check(experiment(method, ("train.init_from", str(self.work))))

    def test_the_card(self):
        saved(self.work, "simclr")
        path = self.export("m.safetensors", format="safetensors", dtype="bfloat16")
        file = files.read(path)
        self.assertEqual({a.dtype.name for a in file.tensors.values()}, {"bfloat16"})
        card = dict(file.metadata)
        self.assertEqual(
            (card["method"], card["step"], card["encoder"]), ("simclr", "3", "student")
        )
        self.assertEqual(json.loads(card["data"]), "abc")
        self.assertEqual(json.loads(card["results"]), {"eval/knn_top1": 0.5, "step": 3})
        self.assertEqual(json.loads(card["config"]), workdir.read_config(self.work))
        feed = json.loads(card["preprocessing"])
        self.assertEqual((feed["size"], feed["crop"]), (16, 0.875))
        self.assertEqual((feed["mean"], feed["std"]), ([0.305], [0.376]))
        self.assertEqual(json.loads(card["versions"])["trained"], {"jax": "1"})

    def test_the_lines_that_load_a_file_elsewhere_import_what_they_use(self):
        saved(self.work, "simclr")
        flags = (f"--output={self.folder / 't.safetensors'}", "--format=timm")
        code, out, err = command("export", f"--workdir={self.work}", *flags)
        self.assertEqual((code, err), (0, ""))
        lines = ast.walk(ast.parse(out.partition("to load it:\n")[2]))
        nodes = [node for node in lines if isinstance(node, (ast.Name, ast.alias))]
        imported = {(n.asname or n.name).split(".")[0] for n in nodes if isinstance(n, ast.alias)}
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        self.assertEqual(names - imported, {"model"})

    def test_refusals(self):
        saved(self.work, "simclr")
        for flags, name, message in (
            (("--format=safetensor",), "x.npz", "one of 'safetensors', .*, got 'safetensor'"),
            (("--format=timm", "--part=all"), "x.safetensors", "names only backbones"),
            (("--format=npz", "--step=9"), "x.npz", "no checkpoint of step 9"),
            (("--format=npz", "--encoder=teacher"), "x.npz", "simclr has no slow average"),
            (("--format=npz", "--dtype=float8"), "x.npz", "--dtype: expected one of 'float32', "),
            (("--format=safetensors",), "x.npz", "needs a name that ends in .safetensors"),
            (("--format=npz",), "nowhere/x.npz", "no folder"),
        ):
            output = f"--output={self.folder}/{name}"
            code, _, err = command("export", f"--workdir={self.work}", *flags, output)
            self.assertEqual(code, 2)
            self.assertRegex(err, message)
            self.assertLen(err.splitlines(), 1)
            self.assertEqual([p.name for p in self.folder.iterdir()], ["w"])


class ImportTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def release(self, **changes):
        """Write a file like MoCo v2's release, for the network of the digits recipe."""
        run = experiment("moco_v2")
        backbone = dict(run.raw["backbone"])
        with_channel = conversion.flat(*networks.shapes(networks.build(backbone, 1)))
        draws = np.random.default_rng(0)
        own = {p: draws.normal(size=s.shape).astype(np.float32) for p, s in with_channel.items()}
        wide = run.objective.feature_dim
        hidden, out = run.objective.projector
        head = sequential(("0", wide, hidden), ("2", hidden, out))
        tensors = conversion.to_timm(own, backbone) | prefixed("fc.", head)
        path = self.folder / "moco.safetensors"
        queue = {"queue": np.zeros((out, 4), np.float32)}
        files.write(path, prefixed("module.encoder_q.", tensors) | queue | changes, {})
        return path, own, head

    def test_a_run_starts_from_a_release(self):
        path, own, head = self.release()
        restored = started(experiment("moco_v2", ("train.init_from", str(path))))
        for params in (restored.params, restored.extra["key_encoder"]):
            leaves = tree.named_leaves(params["backbone"])
            for name, leaf in leaves.items():
                np.testing.assert_array_equal(leaf, own[name], err_msg=name)
            first = params["projector"]["linear1"]["kernel"]
            np.testing.assert_array_equal(first, head["0.weight"].T)
        # A head of another shape is left out.
        other = ("objective.projector", (8, 5))
        restored = started(experiment("moco_v2", ("train.init_from", str(path)), other))
        self.assertEqual(restored.params["projector"]["linear1"]["kernel"].shape[1], 8)

    def test_imported_it_is_the_same(self):
        path, _, _ = self.release()
        output = self.folder / "ours.safetensors"
        backbone = [
            f"--config.backbone.{k}={v}" for k, v in experiment("moco_v2").raw["backbone"].items()
        ]
        code, out, err = command("import", f"--weights={path}", f"--output={output}", *backbone)
        self.assertEqual((code, err), (0, ""))
        self.assertIn("resnet at 'module.encoder_q.'", out)
        self.assertIn("skipped (1): queue", out)
        a, b = (started(experiment("moco_v2", ("train.init_from", str(p)))) for p in (path, output))
        assert_equal((a.params, a.extra), (b.params, b.extra))

    def test_what_fits_only(self):
        path, _, _ = self.release(**{"module.encoder_q.bn1.weight": np.ones(3, np.float32)})
        argv = ["import", f"--weights={path}", f"--output={self.folder}/o.npz"]
        argv += [
            f"--config.backbone.{k}={v}" for k, v in experiment("moco_v2").raw["backbone"].items()
        ]
        code, _, err = command(*argv)
        self.assertEqual(code, 2)
        self.assertRegex(err, r"stem/0/norm/scale \(3,\) for \(4,\)")
        code, out, _ = command(*argv, "--strict=false")
        self.assertEqual(code, 0)
        self.assertIn("initialized (1): stem/0/norm/scale", out)
        restored = started(experiment("simclr", ("train.init_from", f"{self.folder}/o.npz")))
        np.testing.assert_array_equal(restored.params["backbone"]["stem"]["0"]["norm"]["scale"], 1)

    def test_a_wrong_file_of_a_run(self):
        (self.folder / "page.pth").write_text("<html>")
        run = experiment("simclr", ("train.init_from", f"{self.folder}/page.pth"))
        with self.assertRaisesRegex(UserError, "^train.init_from: .*page.pth is a web page"):
            pretrained.check(run)
        files.write(self.folder / "vit.npz", plain_vit(), {})
        run = experiment("simclr", ("train.init_from", f"{self.folder}/vit.npz"))
        with self.assertRaisesRegex(UserError, "holds a vit, but backbone.name is 'resnet_small'"):
            pretrained.load(run, terminal())


def plain_vit():
    return plain(
        {
            "name": "vit",
            "size": None,
            "patch": 4,
            "image_size": 16,
            "dim": 8,
            "depth": 1,
            "heads": 2,
        }
    )


if __name__ == "__main__":
    absltest.main()
