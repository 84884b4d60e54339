"""The command line in real processes: a run, a run that is killed and resumed, evaluation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl.testing import absltest

from ssl_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
SHORT = (
    "--config.backbone.width=4",
    "--config.train.steps=12",
    "--config.train.batch_size=32",
    "--config.train.log_every=1",
    "--config.checkpoint.every=4",
    "--config.evals.every=4",
    "--config.evals.fewshot.draws=2",
    "--config.evals.clustering.runs=1",
)
TINY = ("--config=simclr:digits", "--config.objective.projector=(8,8)", *SHORT)

# Killed while the devices cluster, at the refresh before step 8, unless it was once already.
DIES_IN_REFRESH = """
import os, pathlib, signal
import jax
from ssl_jax.objectives.deepcluster import DeepCluster

def die(step, labels):
    died = pathlib.Path(os.environ["DIED"])
    if step == 8 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)

class Mortal(DeepCluster):
    def refresh(self, params, extra, features, key, step):
        params, extra = super().refresh(params, extra, features, key, step)
        jax.debug.callback(die, step, extra["assignments"])
        return params, extra

make = Mortal.make
"""


def start(*argv, cwd=ROOT, devices=1, **env):
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)} | env
    return subprocess.Popen(
        [sys.executable, "-m", "ssl_jax", *argv],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def without_perf(line):
    return {k: v for k, v in line.items() if not k.startswith("perf/")}


class TrainTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def finish(self, process):
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, err)
        self.assertNotIn("Traceback", err)
        return out

    def train(self, name, *flags, **how):
        return start("train", f"--workdir={self.folder / name}", *TINY, *flags, **how)

    def test_a_killed_run_ends_with_the_numbers_of_one_that_was_not(self):
        out = self.finish(self.train("whole"))
        self.assertIn("What was learned", out)
        self.assertIn("linear classifier, 5 labels per class", out)
        lines = read_metrics(self.folder / "whole")
        self.assertEqual({line["step"] for line in lines}, set(range(13)))

        killed = self.train("killed")
        deadline = time.monotonic() + 300
        saved = self.folder / "killed" / "checkpoints" / "4" / "manifest.json"
        while not (saved.exists() and read_metrics(self.folder / "killed")[-1]["step"] > 4):
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(killed.poll(), "it ended before it could be killed")
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        out = self.finish(self.train("killed"))
        self.assertRegex(out, "resuming from the checkpoint of step (4|8)")

        again = read_metrics(self.folder / "killed")
        self.assertEqual([without_perf(x) for x in again], [without_perf(x) for x in lines])
        summaries = [
            without_perf(json.loads((self.folder / n / "summary.json").read_text()))
            for n in ("whole", "killed")
        ]
        self.assertEqual(*summaries)
        for name in ("eval/fewshot5_top1", "eval/kmeans_acc", "diag/rankme", "train/loss"):
            self.assertIn(name, summaries[0])
        for name in ("pixels/eval/knn_top1", "untrained/eval/knn_top1"):
            self.assertIn(name, summaries[0])

        # Run once more it has nothing to do, and says what it learned.
        self.assertIn("What was learned", self.finish(self.train("killed")))
        self.assertEqual(read_metrics(self.folder / "killed"), again)

        out = self.finish(start("evaluate", f"--workdir={self.folder / 'whole'}", "--eval=knn"))
        self.assertIn("eval/knn_top1", out)
        written = json.loads((self.folder / "whole" / "eval" / "results.jsonl").read_text())
        self.assertEqual(written["results"]["eval/knn_top1"], summaries[0]["eval/knn_top1"])
        self.assertEqual(written["settings"]["k"], 20)
        self.assertEqual(written["step"], 12)

    @pytest.mark.full
    def test_a_run_killed_in_a_refresh_makes_it_again(self):
        method, died = self.folder / "mortal.py", self.folder / "died"
        method.write_text(DIES_IN_REFRESH)

        def train(name):
            config = ("--config=deepcluster:digits", f"--config.objective.name={method}")
            every = "--config.objective.epochs=0.1"  # 4 steps, with 44 an epoch
            small = ("--config.objective.whitened=8", "--config.objective.clusters=7")
            workdir = f"--workdir={self.folder / name}"
            return start("train", workdir, *config, every, *small, *SHORT, DIED=str(died))

        killed = train("killed")
        _, err = killed.communicate(timeout=300)
        self.assertEqual(killed.returncode, -signal.SIGKILL, err)
        self.assertTrue(died.exists())
        self.assertEqual(read_metrics(self.folder / "killed")[-1]["step"], 8)
        out = self.finish(train("killed"))
        self.assertIn("resuming from the checkpoint of step", out)
        self.finish(train("whole"))
        lines = [
            [without_perf(line) for line in read_metrics(self.folder / name)]
            for name in ("killed", "whole")
        ]
        self.assertEqual(*lines)
        self.assertEqual({line["step"] for line in lines[0]}, set(range(13)))

    def test_a_loss_that_is_not_finite_is_named(self):
        process = self.train("bad", "--config.optim.name=sgd", "--config.optim.lr=1e30")
        _, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 2, err)
        self.assertRegex(err, r"ssl-jax: loss or gradient not finite at step \d+; that update was")
        self.assertLen(err.strip().splitlines(), 1)

    def test_methods(self):
        out = self.finish(start("methods"))
        for name in ("simclr", "byol", "rotnet", "mae"):
            self.assertIn(name, out)

    def test_a_wheel_in_an_empty_folder(self):
        """Configs and launchers travel in the wheel, so that short names work anywhere."""
        built = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(self.folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        self.assertEqual(built.returncode, 0, built.stderr)
        (wheel,) = self.folder.glob("*.whl")
        installed, empty = self.folder / "site", self.folder / "empty"
        empty.mkdir()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--target",
                installed,
                wheel,
            ],
            check=True,
        )
        env = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(installed)}
        script = (
            "import ssl_jax, sys; assert 'site' in ssl_jax.__file__, ssl_jax.__file__\n"
            "from ssl_jax.cli import main; main()"
        )
        argv = ["train", "--config=simclr:digits", "--workdir=W", "--config.train.steps=2"]
        run = subprocess.run(
            [sys.executable, "-c", script, *argv, "--config.evals.every=-1"],
            cwd=empty,
            env=env,
            capture_output=True,
            text=True,
        )
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertTrue((empty / "W" / "summary.json").exists())


if __name__ == "__main__":
    absltest.main()
