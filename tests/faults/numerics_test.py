"""Losses that are not finite: skipped, rolled back or fatal; and spikes of the loss."""

import contextlib
import io
import json
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest

from ssl_jax import cli
from ssl_jax.evals.evaluator import Evaluator
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import state
from ssl_jax.training.step import make_kernel
from tests.faults.runs import TINY, Run

# NaN for the batches that hold one of these examples. They lie in the state and not in the program,
# so that all tests run the same one.
POISONED = """
import jax.numpy as jnp
from ssl_jax.objectives.simclr import SimCLR

BAD = {bad}

class Poisoned(SimCLR):
    def init(self, key):
        params, extra = super().init(key)
        return params, extra | {{"bad": jnp.array(BAD)}}

    def loss(self, params, extra, batch, key, step):
        loss, aux = super().loss(params, extra, batch, key, step)
        bad = jnp.isin(batch["index"], extra["bad"]).any()
        kept = aux.extra | {{"bad": extra["bad"]}}
        return jnp.where(bad, jnp.nan, loss), aux._replace(extra=kept)

make = Poisoned.make
"""
FLAGS = (*TINY, "--config.evals.every=-1", "--config.checkpoint.every=4")
FLAGS = (*FLAGS, "--config.train.steps=12", "--config.train.batch_size=16")


def experiment(*overrides):
    small = [("backbone.width", 4), ("objective.projector", (8, 8)), ("train.batch_size", 16)]
    config = configured("simclr:digits", [*small, ("train.steps", 12), *overrides])
    return Experiment.from_config(config, devices=jax.devices()[:1])


def examples(*steps):
    """Return one example of each of these batches; it is in no other batch of the first steps."""
    batches = experiment().batches(0, 20)
    return [int(batch["index"][0]) for step, batch in enumerate(batches) if step in steps]


class NumericsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def train(self, *flags, bad=(), code=0, name="run"):
        """Train on `bad` batches; return the run and its output."""
        method = self.folder / "poisoned.py"
        method.write_text(POISONED.format(bad=(examples(*bad) + 16 * [-1])[:16]))
        run = Run(self.folder / name)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            words = ["train", f"--workdir={run.folder}", *FLAGS]
            ended = cli.run([*words, f"--config.objective.name={method}", *flags])
        self.assertEqual(ended, code, out.getvalue())
        return run, out.getvalue()

    def test_skipped(self):
        run, _ = self.train("--config.train.nonfinite=skip", bad=(2, 3, 9))
        lines = run.metrics()
        self.assertEqual([line["step"] for line in lines], list(range(1, 13)))
        counts = [line.get("train/skipped", 0) for line in lines]
        self.assertEqual(counts, [0, 0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3])
        nans = [line["step"] for line in lines if not np.isfinite(line["train/loss"])]
        self.assertEqual(nans, [3, 4, 10])

    def test_too_many_in_a_row(self):
        flags = ("--config.train.nonfinite=skip", "--config.train.nonfinite_limit=1")
        run, out = self.train(*flags, bad=(5, 7, 8), code=2)
        self.assertIn("ssl-jax: loss or gradient not finite at step 8; that update was", out)
        # Its update of step 7 was undone, which one in a row may be.
        self.assertEqual(max(int(p.name) for p in (run.folder / "checkpoints").iterdir()), 8)

    def test_a_skipped_step_changes_nothing_but_the_counts(self):
        """This includes the optimizer state and the method's own state."""
        run = experiment()
        kernel = jax.jit(make_kernel(run.objective, run.tx, run.schedule, 3))
        placed = run.placed
        before = state.create(run.objective, run.tx, 0, placed)
        batch = next(run.batches(0, 1))
        good, _ = kernel(before, batch)
        harmed = jax.tree.map(lambda x: x * np.nan, before.params)
        after, metrics = kernel(good, batch)
        self.assertFalse(np.isnan(metrics["train/loss"]))
        poisoned = type(before)(**{**vars(good), "params": harmed})
        after, metrics = kernel(poisoned, batch)
        self.assertTrue(np.isnan(metrics["train/loss"]))
        self.assertEqual((int(after.skipped), int(after.in_row), int(after.step)), (1, 1, 2))
        self.assertEqual(int(after.bad_step), -1)
        for name in ("extra", "opt_state"):
            a, b = jax.tree.leaves(getattr(after, name)), jax.tree.leaves(getattr(good, name))
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)

    def test_rolled_back(self):
        """Batches 4 to 6 led to a loss that is not finite; steps from 4 on use later batches."""
        flags = ("--config.train.nonfinite=rollback", "--config.train.log_every=100")
        run, out = self.train(*flags, "--config.train.log_every=1", bad=(6,))
        self.assertIn(
            "not finite at step 6: back to step 4, skipping the 3 batch(es) that led there", out
        )
        lines = run.metrics()
        self.assertEqual([line["step"] for line in lines], list(range(1, 13)))
        self.assertTrue(all(np.isfinite(line["train/loss"]) for line in lines))
        # A run that was never poisoned and leaves the same batches out makes the same steps.
        clean = experiment()
        kernel = jax.jit(make_kernel(clean.objective, clean.tx, clean.schedule))
        current = state.create(clean.objective, clean.tx, 0, clean.placed)
        for step, batch in enumerate(clean.batches(0, 15)):
            if step not in (4, 5, 6):
                current, metrics = kernel(current, batch)
                line = lines[int(current.step) - 1]
                np.testing.assert_allclose(metrics["train/loss"], line["train/loss"], rtol=1e-4)
        # Run again from there it knows what was left out.
        newest = max((run.folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
        metadata = json.loads((newest / "_CHECKPOINT_METADATA").read_text())
        self.assertEqual(metadata["custom_metadata"]["left_out"], 3)

    def test_rolled_back_too_often(self):
        bad = tuple(range(5, 20))  # whichever batches are left out, step 5's is bad
        flags = ("--config.train.nonfinite=rollback", "--config.train.nonfinite_limit=2")
        _, out = self.train(*flags, bad=bad, code=2)
        self.assertEqual(out.count("back to step 4"), 2)
        self.assertRegex(out, "ssl-jax: loss or gradient not finite at step .* 3 times after")

    def test_before_the_first_checkpoint(self):
        run, out = self.train("--config.train.nonfinite=rollback", bad=(1,))
        self.assertIn("back to step 0, skipping the 2 batch(es)", out)
        self.assertEqual([line["step"] for line in run.metrics()], list(range(1, 13)))

    def test_an_evaluation_that_raises_is_told_and_the_run_goes_on(self):
        measure, calls = Evaluator.measure, []

        def fails(self, encoder):
            calls.append(1)
            if len(calls) == 4:  # two of them at step 0
                raise RuntimeError("a bug in a protocol\nmore")
            return measure(self, encoder)

        with mock.patch.object(Evaluator, "measure", fails):
            run, out = self.train("--config.evals.every=4")
        self.assertRegex(
            out, "evaluation at step 8 failed, training goes on: RuntimeError: a bug in a prot"
        )
        self.assertIn("in fails", (run.folder / "errors.log").read_text())
        lines = [line for line in run.metrics() if "train/loss" not in line]
        self.assertEqual(lines[2], {"step": 8, "eval/failed": 1.0})
        self.assertIn("eval/knn_top1", lines[3])

    def test_a_spike_is_told(self):
        run, out = self.train("--config.train.steps=16", "--config.train.spike=0.5")
        heights = [line["step"] for line in run.metrics() if "diag/loss_spike" in line]
        self.assertTrue(heights)
        self.assertEqual(out.count("is a spike"), len(heights))
        self.assertRegex(out, r"step \d+: the loss \S+ is a spike, \d+ deviations above those")


if __name__ == "__main__":
    absltest.main()
