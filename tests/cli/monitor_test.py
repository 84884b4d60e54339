"""Output on the online probe and on a collapse during a run."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from absl.testing import absltest
from rich.console import Console

from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.run.commands.train import announce
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import workdir
from ssl_jax.training.metrics import read_metrics

# SimSiam without its stop-gradient and its predictor: two views should be alike, and no more.
ALIKE = """
from dataclasses import dataclass

import jax.numpy as jnp

from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.objectives.base import Aux, Objective, View
from ssl_jax.objectives.parts.views import fold


@dataclass(frozen=True)
class Alike(Objective):
    view: View = View(16, count=2, recipe="digits")

    def loss(self, params, extra, batch, key, step):
        nets = self.networks.bind(params, extra["stats"])
        z = l2_normalize(nets.backbone(fold(batch["views"][0])).pooled)
        return -jnp.mean(jnp.sum(z[::2] * z[1::2], -1)), Aux({"stats": nets.stats})


make = Alike.make
"""
PROBE = [("train.online_probe", 0.01)]


class MonitorTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def test_a_run_that_collapses_says_so(self):
        (self.folder / "alike.py").write_text(ALIKE)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = cli.run(
                [
                    "train",
                    "--config=rotnet:digits",
                    f"--config.objective.name={self.folder / 'alike.py'}",
                    "--config.objective.view.count=2",
                    f"--workdir={self.folder / 'run'}",
                    "--config.backbone.width=8",
                    "--config.train.steps=60",
                    "--config.train.batch_size=64",
                    "--config.train.online_probe=0.01",
                    "--config.optim.lr=0.03",
                    "--config.evals.protocols=('diagnostics','online')",
                    "--config.mesh.data=8",
                ]
            )
        self.assertEqual(code, 0)
        lines = out.getvalue().splitlines()
        self.assertLen([line for line in lines if line.startswith("step 60: constant")], 1, lines)
        self.assertIn("constant collapse: all images get nearly the same features", lines)
        self.assertTrue(any("linear classifier, trained along" in line for line in lines))
        last = read_metrics(self.folder / "run")[-1] | json.loads(
            (self.folder / "run" / "summary.json").read_text()
        )
        self.assertEqual(last["diag/collapse"], 1.0)
        for name in ("train/online_top1", "train/online_loss", "eval/online_top1"):
            self.assertIn(name, last)
        self.assertNotIn("untrained/eval/online_top1", last)

    def test_images_without_labels_are_told_and_trained_on(self):
        images = np.random.default_rng(0).integers(0, 255, (256, 16, 16, 1), dtype=np.uint8)
        np.savez(self.folder / "bare.npz", images=images)
        for data, unlabelled in ((f"npz:{self.folder / 'bare.npz'}", True), ("digits", False)):
            run = Experiment.from_config(configured("simclr:digits", PROBE, data))
            self.assertEqual(run.objective is run.method, unlabelled)
            out = io.StringIO()
            announce(Console(file=out, width=200), run)
            self.assertEqual("these images have no labels" in out.getvalue(), unlabelled)

    def test_a_run_keeps_what_it_began_with(self):
        runs = [Experiment.from_config(configured("simclr:digits", keys)) for keys in ([], PROBE)]
        (plain, probed), defaults = (run.resolved() for run in runs), runs[0].defaults()
        # As a version wrote it that knew neither a probe, nor shares of the data, nor `view`.
        older = {name: dict(section) for name, section in plain.items()}
        del older["train"]["online_probe"], older["data"]["fraction"], older["objective"]["view"]
        less = {**older, "data": older["data"] | {"fraction": 0.5}}
        with self.assertRaisesRegex(UserError, "objective.view"):  # not the default here
            workdir.check_resumable(older, plain, self.folder, defaults)
        older["objective"]["view"] = plain["objective"]["view"]
        less["objective"] = older["objective"]
        workdir.check_resumable(older, plain, self.folder, defaults)
        for old, current, key in (
            (older, probed, "train.online_probe"),
            (probed, plain, "train.online_probe"),
            (less, plain, "data.fraction"),
        ):
            with self.assertRaisesRegex(UserError, f"{key} .was .*, now .*old values"):
                workdir.check_resumable(old, current, self.folder, defaults)


if __name__ == "__main__":
    absltest.main()
