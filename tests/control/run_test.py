"""Runs that act: killed and resumed bit for bit, in state and replay; bad input in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax.training.metrics import read_metrics
from tests.cli.export_test import command
from tests.compiling import users_environment

TINY = (
    "--config=curl:pendulum",
    "--config.objective.size=12",
    "--config.objective.dim=4",
    "--config.objective.hidden=8",
    "--config.backbone.width=2",
    "--config.control.side=14",
    "--config.control.capacity=64",
    "--config.control.random_steps=15",
    "--config.control.action_repeat=10",  # 20 agent steps per episode
    "--config.train.batch_size=8",
    "--config.train.log_every=1",
    "--config.checkpoint.every=5",
    "--config.checkpoint.keep=9",
    "--config.evals.every=-1",
)


def train(folder, *flags):
    return command("train", f"--workdir={folder}", *TINY, *flags)


def replay_of(folder):
    arrays = {}
    for path in sorted((folder / "replay").glob("*.npz")):
        with np.load(path) as file:
            arrays |= {(path.name, name): file[name] for name in file.files}
    return arrays


def training_of(folder):
    """Metrics by step, without times."""
    lines = (line for line in read_metrics(folder) if "train/loss" in line)
    timeless = ({k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines)
    return {line["step"]: line for line in timeless}


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    @pytest.mark.full
    def test_a_resumed_run_has_the_same_metrics_and_replay(self):
        """The interrupted run had gone on beyond its checkpoint, and its replay further still."""
        whole, part = self.folder / "whole", self.folder / "part"
        code, out, err = train(whole, "--config.train.steps=30")
        self.assertEqual(code, 0, err)
        self.assertRegex(out, r"environment steps/s +data wait")
        code, _, err = train(part, "--config.train.steps=30", "--config.train.stop_at=20")
        self.assertEqual(code, 0, err)
        for step in (15, 20):  # as a kill during the save of step 15 leaves it, and worse
            shutil.rmtree(part / "checkpoints" / str(step))
        code, out, err = train(part, "--config.train.steps=30")
        self.assertEqual(code, 0, err)
        self.assertIn("resuming from the checkpoint of step 10", out)
        expected, actual = training_of(whole), training_of(part)
        self.assertLen(expected, 30)
        self.assertEqual(actual, expected)
        expected, actual = replay_of(whole), replay_of(part)
        self.assertEqual(actual.keys(), expected.keys())
        for key, value in expected.items():
            np.testing.assert_array_equal(actual[key], value, str(key))
        rates = [line for line in read_metrics(whole) if "train/loss" in line]
        for name in ("environment_steps_per_second", "steps_per_second", "data_wait"):
            self.assertTrue(all(line[f"perf/{name}"] >= 0 for line in rates), name)
        shutil.rmtree(part / "replay")
        flags = ("--config.train.steps=35", "--accept_changes")
        code, _, err = train(part, *flags)
        self.assertEqual(code, 2)
        self.assertRegex(err, r"^ssl-jax: .*episode_000000.npz is missing: the run has made 45 ag")
        self.assertEqual(err.count("\n"), 1)

    @parameterized.parameters(
        (("--config=simclr:digits", "--data=control:pendulum"), "this method does not act"),
        (("--config=curl:pendulum", "--data=digits"), "this method acts in an environment"),
        (("--config=curl:pendulum", "--config.objective.size=29"), "larger than the frames of 28"),
        (("--config=curl:pendulum", "--config.data.fraction=0.5"), "data.fraction: .*environment"),
        (("--config=curl:pendulum", "--data=control:pendulun"), "did you mean 'pendulum'|pip inst"),
        (("--config=simclr:digits", "--config.control.side=9"), "control.side: would change noth"),
        (("--config=curl:pendulum", "--config.control.stacks=2"), "unknown .*did you mean 'stack'"),
    )
    def test_bad_input(self, flags, message):
        code, _, err = command("train", f"--workdir={self.folder / 'w'}", *flags)
        self.assertEqual(code, 2)
        self.assertRegex(err, message)
        self.assertEqual(err.count("\n"), 1)

    def test_returns_are_measured(self):
        flags = ("--config.train.steps=2", "--config.evals.every=2", "--config.data.threads=1")
        flags = (*flags, "--config.evals.episodes.episodes=2")
        code, _, err = train(self.folder / "w", *flags)
        self.assertEqual(code, 0, err)
        summary = json.loads((self.folder / "w" / "summary.json").read_text())
        for key in ("eval/return", "untrained/eval/return"):
            self.assertTrue(0 < summary[key] < 200, key)
        self.assertGreater(summary["eval/std_of_return"], 0)


@pytest.mark.full
class CartpoleTest(absltest.TestCase):
    def test_two_thousand_steps(self):
        """With the extra `rl`; without it the run is refused in one line."""
        folder = Path(self.create_tempdir().full_path)
        flags = ("--config=curl:cartpole_swingup", "--config.train.steps=2000")
        small = ("--config.objective.hidden=64", "--config.backbone.width=8")
        small += ("--config.train.batch_size=16", "--config.evals.episodes.episodes=2")
        line = [sys.executable, "-m", "ssl_jax", "train", f"--workdir={folder / 'w'}"]
        # In a process of its own: with the compiler's flags of tests a step takes ten times as long
        run = subprocess.run(
            [*line, *flags, *small], env=users_environment(), capture_output=True, text=True
        )
        if "dm_control, which is not installed" in run.stderr:
            self.assertEqual((run.returncode, run.stderr.count("\n")), (2, 1))
            self.assertIn("pip install -e '.[rl]'", run.stderr)
            return
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("environment steps/s", run.stdout)
        summary = json.loads((folder / "w" / "summary.json").read_text())
        self.assertTrue(0 <= summary["eval/return"] <= 1000)


if __name__ == "__main__":
    absltest.main()
