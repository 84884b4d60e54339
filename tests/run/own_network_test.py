"""Runs with a network of the user's own: names, resuming, another folder, the same file again."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from absl.testing import absltest

import ssl_jax
from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.run.configs import configured, override
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import paths, workdir

LINEN = """
from flax import linen as nn


class Net(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(self.width, (3, 3), strides=4)(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x))
"""


class OwnNetworkTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        (self.folder / "net.py").write_text(LINEN)

    def test_another_backbone_drops_the_options_of_the_recipe(self):
        config = configured("simclr:digits", ())
        self.assertEqual(config["backbone"], {"name": "resnet_small", "width": 16})
        same = configured("simclr:digits", [("backbone.name", "resnet_small")])
        self.assertEqual(same["backbone"], config["backbone"])
        config["backbone"]["dtype"] = "bfloat16"
        override(config, [("backbone.size", "tiny"), ("backbone.name", "convnext")])
        expected = {"name": "convnext", "size": "tiny", "dtype": "bfloat16"}
        self.assertEqual(config["backbone"], expected)

    def test_its_path_is_absolute_in_the_run(self):
        with contextlib.chdir(self.folder):
            config = configured("simclr:digits", [("backbone.name", "./net.py")])
            config = paths.anchored(config)
        self.assertEqual(config["backbone"]["name"], str(self.folder / "net.py"))
        resolved = Experiment.from_config(config).resolved()
        options = {"width": 4, "image_size": 224, "dtype": None, "sobel": False}
        self.assertEqual(resolved["backbone"], {"name": str(self.folder / "net.py")} | options)
        wider = resolved | {"backbone": resolved["backbone"] | {"width": 8}}
        with self.assertRaisesRegex(UserError, r"backbone.width \(was 4, now 8\)"):
            workdir.check_resumable(resolved, wider, "W")

    @pytest.mark.full
    def test_a_run_resumes_and_is_evaluated_from_another_folder(self):
        run = str(self.folder / "W")
        words = ["--config=simclr:digits", "--config.backbone.name=./net.py"]
        words += ["--config.train.steps=4", "--config.train.batch_size=32"]
        words += ["--config.evals.every=-1", "--config.train.log_every=1"]
        with contextlib.chdir(self.folder):
            code = cli.run(["train", f"--workdir={run}", *words, "--config.train.stop_at=2"])
            self.assertEqual(code, 0)
        self.assertEqual(cli.run(["train", f"--workdir={run}", "--config.train.stop_at=0"]), 0)
        self.assertEqual(cli.run(["evaluate", f"--workdir={run}", "--eval=knn"]), 0)
        encoder = ssl_jax.load(run)
        self.assertEqual(encoder(np.zeros((2, 8, 8, 1), np.uint8)).shape, (2, 4))
        (self.folder / "net.py").unlink()
        with self.assertRaisesRegex(UserError, "backbone.name: no network file '.*net.py'"):
            ssl_jax.load(run)


if __name__ == "__main__":
    absltest.main()
