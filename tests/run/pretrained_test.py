"""Runs that start from another run's encoder: what is loaded, and what is refused."""

import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import files, tree
from ssl_jax.core.errors import UserError
from ssl_jax.run import pretrained
from ssl_jax.run.configs import load_config, override, recipes
from ssl_jax.run.console import terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import state
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.weights import conversion
from ssl_jax.weights import files as weight_files

SMALL = (("backbone.width", 4), ("train.batch_size", 16), ("train.steps", 4))


def experiment(method, *overrides, **mesh):
    config = load_config(f"{method}:{recipes(method)[0]}")
    sizes = [(f"mesh.{axis}", size) for axis, size in mesh.items()]
    override(config, [*SMALL, ("mesh.fsdp_min_size", 1), *sizes, *overrides])
    devices = jax.devices()[: int(np.prod(list(mesh.values()) or [1]))]
    return Experiment.from_config(config, devices=devices)


def saved(folder, method="byol", seed=7):
    """Save a checkpoint whose averaged network differs from its trained one; return the encoder."""
    run = experiment(method)
    start = state.create(run.objective, run.tx, seed, run.placed)
    moved = jax.tree.map(lambda x: x + 1, start.params)
    start = dataclasses.replace(start, params=moved)
    Path(folder).mkdir(exist_ok=True)
    files.write_json(Path(folder) / "config.json", run.resolved())
    with Checkpoints(Path(folder) / "checkpoints") as checkpoints:
        checkpoints.save(3, start, {})
    return jax.device_get(run.objective.encoder(start.params, start.extra))


def started(run):
    backbone = pretrained.load(run, terminal())
    with jax.set_mesh(run.mesh):
        restored = state.create(run.objective, run.tx, 0, run.placed, backbone)
    for leaf, where in zip(jax.tree.leaves(restored), jax.tree.leaves(run.placed), strict=True):
        assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
    return jax.device_get(restored)


def assert_equal(a, b):
    for (name, x), y in zip(tree.named_leaves(a).items(), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


class PretrainedTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    @parameterized.parameters({}, {"data": 2, "fsdp": 4})
    def test_starts_as_the_encoder_on_any_mesh(self, **mesh):
        encoder = saved(self.folder)
        restored = started(experiment("supervised", ("train.init_from", self.folder), **mesh))
        assert_equal(restored.params["backbone"], encoder.params)
        assert_equal(restored.extra["stats"]["backbone"], encoder.stats)
        average = restored.extra["average"]["params"]
        assert_equal(average["backbone"], encoder.params)
        fresh = started(experiment("supervised"))
        assert_equal(restored.params["classifier"], fresh.params["classifier"])
        with self.assertRaises(AssertionError):
            assert_equal(restored.params["backbone"], fresh.params["backbone"])

    @parameterized.parameters(None, 0.01)
    def test_any_method_may_start_so_with_its_copies(self, probe):
        encoder = saved(self.folder, "simclr")
        overrides = ("train.init_from", self.folder), ("train.online_probe", probe)
        run = experiment("byol", *overrides)
        restored = started(run)
        assert_equal(restored.params["backbone"], encoder.params)
        assert_equal(run.objective.encoder(restored.params, restored.extra).params, encoder.params)
        copies = [p for p, _ in tree.named_leaves(restored.extra).items() if "stem/0/conv" in p]
        self.assertNotEmpty(copies)
        for path in copies:
            np.testing.assert_array_equal(
                tree.named_leaves(restored.extra)[path],
                encoder.params["stem"]["0"]["conv"]["kernel"],
            )

    def test_another_network_is_told_before_weights_are_read(self):
        saved(self.folder)
        run = experiment("supervised", ("train.init_from", self.folder), ("backbone.width", 8))
        with self.assertRaisesRegex(
            UserError, r"another network than `backbone`: of another shape stage1/0/\S+ \(.* more"
        ) as caught:
            pretrained.check(run)
        self.assertLess(len(str(caught.exception).splitlines()), 2)

    def test_what_shapes_do_not_tell_must_be_the_same(self):
        saved(self.folder)
        path = Path(self.folder) / "config.json"
        config = json.loads(path.read_text())
        config["backbone"] = {"name": "resnet", "depth": 8, "num_filters": 4, "stem": "cifar"}
        files.write_json(path, config)
        run = experiment("supervised", ("train.init_from", self.folder))
        with self.assertRaisesRegex(
            UserError, "init_from: .*backbone.stem is 'small' in the config but 'cifar' in"
        ):
            pretrained.check(run)

    @parameterized.parameters("run", "file")
    def test_images_of_more_channels(self, kind):
        path = Path(self.folder) / "rgb.npz"
        images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
        np.savez(path, images=images, labels=np.arange(64) % 4)
        encoder, start = saved(self.folder), self.folder
        if kind == "file":
            variables = conversion.flat(encoder.params, encoder.stats)
            tensors = conversion.to_timm(variables, {"name": "resnet_small", "width": 4})
            start = str(Path(self.folder) / "w.safetensors")
            weight_files.write(Path(start), tensors, {})
        rgb = ("data.train", f"npz:{path}"), ("train.init_from", start)
        with self.assertRaisesRegex(
            UserError, "is for images of 1 channels, the data have 3; set train.init_channels to re"
        ):
            pretrained.check(experiment("supervised", *rgb))
        restored = started(experiment("supervised", *rgb, ("train.init_channels", "mean")))
        kernel = restored.params["backbone"]["stem"]["0"]["conv"]["kernel"]
        own = encoder.params["stem"]["0"]["conv"]["kernel"]
        np.testing.assert_allclose(kernel, np.repeat(own, 3, 2) / 3, rtol=1e-6)
        stage = lambda params: params["stage1"]  # noqa: E731
        assert_equal(stage(restored.params["backbone"]), stage(encoder.params))
        same = ("train.init_from", start), ("train.init_channels", "zero")
        with self.assertRaisesRegex(UserError, "init_channels: 'zero' would change nothing"):
            pretrained.check(experiment("supervised", *same))

    def test_missing_and_left(self):
        source = ({"a": np.zeros(2), "mask_token": np.zeros(1)}, {})
        like = ({"a": np.ones(2)}, {})
        selected, unused = pretrained.fit(source, like, "W")
        self.assertEqual((list(selected[0]), unused), (["a"], ["mask_token"]))
        with self.assertRaisesRegex(UserError, "the file also has registers"):
            pretrained.fit(({"a": np.zeros(2), "registers": np.zeros(1)}, {}), like, "W")
        with self.assertRaisesRegex(UserError, "missing b, c, d and 1 more"):
            pretrained.fit(source, ({k: np.zeros(2) for k in "abcde"}, {}), "W")

    def test_no_run_and_no_checkpoint(self):
        with self.assertRaisesRegex(UserError, "no run in"):
            pretrained.check(experiment("supervised", ("train.init_from", "/nowhere")))
        config = json.loads(json.dumps(experiment("simclr").resolved()))
        files.write_json(Path(self.folder) / "config.json", config)
        run = experiment("supervised", ("train.init_from", self.folder))
        with self.assertRaisesRegex(UserError, "holds no checkpoint yet"):
            pretrained.load(run, terminal())


if __name__ == "__main__":
    absltest.main()
