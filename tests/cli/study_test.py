"""Studies: runs are trained in sequence, resumed, and shown in one table."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.cli import train
from ssl_jax.cli.study import fits
from ssl_jax.core.errors import UserError
from ssl_jax.run import study
from ssl_jax.run.configs import configured
from ssl_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
STUDY = """
from itertools import product

def get_config(name="four"):
    return {
        f"data{share}-steps{steps}": {
            "config": "simclr:digits",
            "data.fraction": share,
            "train.steps": steps,
            "backbone.width": 4,
            "objective.projector": (8, 8),
            "train.batch_size": 16,
            "checkpoint.every": 2,
            "evals.protocols": ("knn",),
            "evals.max_train": 100,
            "evals.max_eval": 50,
        }
        for share, steps in product((0.1, 1.0), (2, 6))
    }
"""


class StudyTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.file = self.folder / "study.py"
        self.file.write_text(STUDY)
        self.argv = ["study", f"--study={self.file}", f"--workdir={self.folder / 'S'}"]

    def run_study(self, *flags, code=0):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run([*self.argv, *flags])
        self.assertEqual(status, code, err.getvalue())
        return out.getvalue(), err.getvalue()

    def test_killed_it_goes_on_and_a_finished_run_is_left_alone(self):
        child = subprocess.Popen(
            [sys.executable, "-m", "ssl_jax", *self.argv],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        first, second = (self.folder / "S" / f"data0.1-steps{n}" for n in (2, 6))
        deadline = time.monotonic() + 600
        while not (second / "config.json").exists():
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(child.poll())
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.assertTrue(study.finished(first))
        self.assertFalse(study.finished(second))
        before = (first / "metrics.jsonl").read_bytes()
        # A run that cannot be trained is named, and the others are.
        blocked = self.folder / "S" / "data1.0-steps2"
        blocked.write_text("no folder")
        out, err = self.run_study("--format=csv", "--metrics=knn_top1", code=2)
        self.assertEqual((first / "metrics.jsonl").read_bytes(), before)
        self.assertIn("not trained or measured: data1.0-steps2", err)
        blocked.unlink()
        with mock.patch.object(train, "train", wraps=train.train) as start:
            out, err = self.run_study("--format=csv", "--metrics=knn_top1")
        self.assertEqual(start.call_count, 1)
        rows = [line.split(",") for line in out.splitlines() if line.startswith(("run,", "data"))]
        self.assertEqual(rows[0], ["run", "data.fraction", "train.steps", "step", "knn_top1"])
        self.assertEqual(
            [row[:4] for row in rows[1:]],
            [
                [f"data{share}-steps{steps}", share, steps, steps]
                for share in ("0.1", "1.0")
                for steps in ("2", "6")
            ],
        )
        for row in rows[1:]:
            last = read_metrics(self.folder / "S" / row[0])[-1]
            self.assertEqual(row[4], f"{last['eval/knn_top1']:.4f}")

    def test_the_shipped_ones_are_configs(self):
        for name, count in (
            ("data_and_steps", 9),
            ("methods_and_widths", 9),
            ("methods_and_depths", 12),
            ("s4l_digits", 6),
            ("moam_digits", 3),
            ("moam", 3),
            ("jft_digits", 6),
            ("jft_digits_epochs", 6),
        ):
            runs = study.read(f"studies:{name}")
            self.assertLen({run.name for run in runs}, count)
            for run in runs:
                configured(run.config, list(run.changes.items()))

    def test_a_fit_per_metric(self):
        self.file.write_text(
            "def get_config(name=''):\n"
            "    return {f'{n}-{s}': {'config': 'x', 'data.fraction': n, 'train.seed': s}\n"
            "            for n in (0.1, 1.0) for s in (0, 1)}\n"
        )
        runs = study.read(str(self.file))
        rows = [{"step": 9, "knn_top1": x} for x in (0.5, 0.6, 0.7, 0.9)]  # slopes 0.2 and 0.3
        (row,) = fits(runs, rows, "data.fraction")
        half = 12.706205 * 0.05  # Student's t with one degree of freedom, times the standard error
        self.assertEqual((row["metric"], row["seeds"]), ("knn_top1", 2))
        for name, want in (
            ("at 1", 0.8),
            ("per factor 10", 0.25),
            ("low", 0.25 - half),
            ("high", 0.25 + half),
        ):
            self.assertAlmostEqual(row[name], want, 5)
        with self.assertRaisesRegex(UserError, "--fit=train.steps: expected a number at train.st"):
            fits(runs, rows, "train.steps")
        with self.assertRaisesRegex(UserError, "--fit=train.seed: knn_top1: expected sizes above"):
            fits(runs, rows, "train.seed")

    def test_a_key_for_all_runs(self):
        run = study.read(str(self.file), [("train.steps", 9)])[0]
        words = run.words(Path("/S"), data="digits")
        self.assertContainsSubset(
            ["--config.train.steps=9", "--data=digits", "--workdir=/S/data0.1-steps2"], words
        )
        self.assertNotIn("--config.train.steps=2", words)

    @parameterized.parameters(
        ("{'a': {'train.steps': 1}}", "a: expected a dict with the key 'config'"),
        ("{'a/b': {'config': 'x'}}", "'a/b' is not a valid folder name"),
        ("{}", "it holds no run"),
    )
    def test_what_is_wrong_is_said(self, text, message):
        self.file.write_text(f"def get_config(name=''):\n    return {text}\n")
        with self.assertRaisesRegex(UserError, message):
            study.read(str(self.file))


if __name__ == "__main__":
    absltest.main()
