"""Weights files in the place of a run: every command loads them completely or refuses them."""

import contextlib
import hashlib
import io
import json
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.run import auto, weights_file
from ssl_jax.run.datasets import range_of
from ssl_jax.run.flags import Override
from ssl_jax.weights import conversion, networks, timm
from tests.weights.releases_test import VIT, plain, variables

SMALL = VIT | {"dim": 64, "depth": 1, "heads": 1, "patch": 8}  # one head: a published width


class WeightsFileTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.file = self.save("v.safetensors", plain(SMALL))
        draws = np.random.default_rng(0)
        images = draws.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
        np.savez(self.folder / "i.npz", images=images, labels=np.arange(40) % 2)
        self.data = f"--data=npz:{self.folder / 'i.npz'}"

    def save(self, name, tensors):
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
        return path

    def command(self, *argv, code=0):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run([str(word) for word in argv])
        self.assertEqual(status, code, err.getvalue())
        if code:
            self.assertLen(err.getvalue().splitlines(), 1)
        return err.getvalue() if code else out.getvalue()

    def test_evaluate(self):
        results = self.folder / "r.jsonl"
        flags = ("evaluate", f"--weights={self.file}", self.data, "--eval=knn")
        out = self.command(*flags, f"--results={results}")
        self.assertIn("v.safetensors: 18 tensors, vit; backbone: name='vit'", out)
        (record,) = map(json.loads, results.read_text().splitlines())
        self.assertEqual(record["weights"], str(self.file.resolve()))
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        self.assertEqual((record["digest"], record["method"]), (digest, "weights"))
        self.assertIn("eval/knn_top1", record["results"])
        self.assertEqual(set(record["baselines"]), {"untrained", "pixels"})
        for beside in record["baselines"].values():
            self.assertEqual(set(beside), set(record["results"]))
        self.command(*flags)  # beside the file
        self.assertTrue(Path(f"{self.file}.results.jsonl").is_file())

    def test_report(self):
        page = self.folder / "r.html"
        self.command(
            "report", f"--weights={self.file}", self.data, f"--output={page}", "--examples=16"
        )
        self.assertIn("Weights from a file", page.read_text())
        self.assertIn(hashlib.sha256(self.file.read_bytes()).hexdigest(), page.read_text())

    @parameterized.parameters("evaluate", "report", "embed")
    def test_what_the_file_does_not_tell_is_asked_for(self, name):
        other = self.save("w.safetensors", plain(VIT | {"depth": 1}))
        output = () if name == "evaluate" else (f"--output={self.folder / 'e.npz'}",)
        flags = (name, f"--weights={other}", *output)
        self.assertIn("--config.backbone.heads", self.command(*flags, self.data, code=2))
        self.assertIn("--data is missing", self.command(*flags, code=2))
        message = self.command(*flags, self.data, "--config.optim.lr=1", code=2)
        self.assertIn("--config.optim.lr: only --config.backbone.KEY", message)
        message = self.command(name, "--workdir=W", "--config.backbone.heads=1", *output, code=2)
        self.assertIn("--config.backbone.heads: only", message)
        if name == "embed":
            self.command(*flags, self.data, "--config.backbone.heads=2")
            with np.load(self.folder / "e.npz") as file:
                self.assertEqual(file["features"].shape, (40, 8))

    def test_a_folder_that_is_nothing(self):
        (self.folder / "empty").mkdir()
        with self.assertRaisesRegex(UserError, "holds neither a run .* nor weights"):
            ssl_jax.load(self.folder / "empty")

    def test_a_folder_of_the_hub(self):
        tensors = plain(SMALL | {"heads": 2, "mlp_ratio": 2.0})
        path = self.save("hub/model.safetensors", tensors)
        beside = {
            "config.json": {"hidden_size": 64, "num_attention_heads": 2},
            "preprocessor_config.json": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        }
        for name, content in beside.items():
            (path.parent / name).write_text(json.dumps(content))
        for command in ("evaluate", "report", "checkpoints"):
            message = self.command(command, f"--workdir={path.parent}", code=2)
            self.assertIn(f"no run in {path.parent}: its config.json belongs to something", message)
            self.assertIn(f"use --weights={path.parent}", message)
        for name in (path, path.parent):
            encoder = ssl_jax.load(name)
            self.assertEqual(encoder.config["backbone"]["heads"], 2)
            self.assertEqual(encoder.view.recipe, "normalize_half")
        white = encoder.preprocess(np.full((1, 16, 16, 3), 255, np.uint8))
        np.testing.assert_allclose(white, 1, rtol=1e-6)
        with self.assertRaisesRegex(UserError, "backbone.heads is 1 in the config but 2 in"):
            ssl_jax.load(path, backbone={"heads": 1})
        (path.parent / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.1] * 3, "image_std": [0.5] * 3})
        )
        with self.assertRaisesRegex(UserError, "no recipe has its mean and deviation"):
            ssl_jax.load(path)

    @parameterized.parameters(
        ("preprocessing", '{"size": 1e400}'),
        ("preprocessing", '{"size": 1000000000}'),
        ("preprocessing", "[1]"),
        ("preprocessing", '{"recipe": "x"}'),
        ("probe", '{"stage": 99, "pool": "avg"}'),
        ("probe", '{"pool": [1]}'),
        ("config", "[" * 100_000),
        ("config", '{"data": {"range": 5}}'),
        ("config", '{"data": {"range": [1, "x"]}}'),
    )
    def test_what_a_file_says_of_itself(self, key, text):
        metadata = {"format": "ssl_jax", "backbone": json.dumps(SMALL), "channels": "3", key: text}
        tensors = {f"backbone/{path}": array for path, array in variables(SMALL).items()}
        path = self.folder / "own.safetensors"
        safetensors.numpy.save_file(tensors, path, metadata)
        with self.assertRaises(UserError) as caught:
            ssl_jax.load(path)
        self.assertLen(str(caught.exception).splitlines(), 1)

    def test_the_state_is_that_of_the_file(self):
        run = weights_file.FileExperiment.read(self.file, {}, "digits")
        state = run.checkpoints().restore(0, run.abstract_state, run.placed)
        encoder = run.objective.encoder(state.params, state.extra)
        untrained = jax.tree.map(np.array_equal, run.fresh_state().params, state.params)
        self.assertFalse(all(jax.tree.leaves(untrained)))  # random, not the file's
        like = run.abstract_state.params["backbone"]
        shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)  # noqa: E731
        self.assertEqual(shapes(encoder.params), shapes(like))

    def test_pixels_of_12_bits_fill_the_range_that_they_have(self):
        pixels = np.random.default_rng(0).integers(0, 4096, (9, 16, 16, 3)).astype(np.uint16)
        np.savez(self.folder / "wide.npz", images=pixels)
        made = weights_file.FileExperiment.read(self.file, {}, f"npz:{self.folder / 'wide.npz'}")
        self.assertEqual(made.evals_source.value_range, (0, 4095))
        self.assertEqual(range_of({"backbone": {}}), ())  # of a public file, for `embed`

    def test_auto_starts_from_a_file(self):
        overrides: list[Override] = [("train.init_from", str(self.file)), ("train.steps", 3)]
        config, reasons = auto.choose(self.data[len("--data=") :], *auto.requested(overrides))
        self.assertEqual(config["backbone"]["heads"], 1)
        self.assertEqual(config["objective"]["view"]["size"] % 8, 0)
        self.assertIn(f"as in {self.file}", reasons["backbone"])
        other = self.save("w.safetensors", plain(VIT | {"depth": 1}))
        with self.assertRaisesRegex(UserError, "train.init_from: .*set --config.backbone.heads"):
            auto.choose("digits", str(other))
        self.assertEqual(auto.choose("digits", str(other), {"heads": 4})[0]["backbone"]["heads"], 4)

    @parameterized.parameters("timm", "torchvision")
    def test_what_auto_trains_can_be_exported(self, library):
        backbone = auto.choose("digits")[0]["backbone"]
        shapes = conversion.flat(*networks.shapes(networks.build(backbone, 1)))
        zeros = {path: np.zeros(leaf.shape, np.float32) for path, leaf in shapes.items()}
        tensors, lines = timm.export(zeros, backbone, 1, library)
        self.assertIn("layer3.0.conv2.weight", tensors)
        self.assertIn("model.layer4 = nn.Identity()", lines)


if __name__ == "__main__":
    absltest.main()
