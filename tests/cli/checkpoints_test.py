"""`ssl-jax checkpoints`: listing, verifying and pruning."""

import contextlib
import io
from pathlib import Path

import jax
import jax.numpy as jnp
from absl.testing import absltest

from ssl_jax import cli
from ssl_jax.core import files
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import workdir
from ssl_jax.training.checkpoint import CheckpointConfig, Checkpoints


class CheckpointsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        config = configured("simclr:digits", [("checkpoint.keep", 3)])
        files.write_json(self.folder / "config.json", Experiment.from_config(config).resolved())
        self.below = self.folder / "checkpoints"
        scores = {4: 0.5, 8: 0.9, 12: 0.7}
        with Checkpoints(self.below, CheckpointConfig(keep=3)) as checkpoints:
            for step, score in scores.items():
                tree = jax.device_put({"kernel": jnp.full((9,), step)})
                checkpoints.save(step, tree, {}, {"eval/knn_top1": score})
            checkpoints.finish()

    def run_with(self, *flags):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = cli.run(["checkpoints", f"--workdir={self.folder}", *flags])
        return code, out.getvalue()

    def harm(self, step):
        path = next((self.below / str(step)).rglob("ocdbt*/d/*"))
        path.write_bytes(path.read_bytes()[:-1])

    def test_lists_and_verifies(self):
        code, out = self.run_with()
        self.assertEqual(code, 0)
        self.assertEqual(out.count("not verified"), 3)
        code, out = self.run_with("--verify")
        self.assertEqual((code, out.count("whole")), (0, 3))
        self.harm(8)
        (self.below / "16.orbax-checkpoint-tmp").mkdir()
        code, out = self.run_with("--verify")
        self.assertEqual((code, out.count("whole"), out.count("damaged:")), (1, 2, 1))
        self.assertIn("16.orbax-checkpoint-tmp: being written, or unfinished", out)

    def test_prunes(self):
        code, out = self.run_with("--prune", "--keep=1", "--best=eval/knn_top1")
        self.assertEqual(code, 0)
        self.assertIn("removed: 4\n", out)
        self.assertIn("0.9000", out)
        self.assertCountEqual([p.name for p in self.below.iterdir()], ["8", "12"])

    def test_a_metric_that_no_checkpoint_has(self):
        code, out = self.run_with("--prune", "--keep=1", "--best=-eval/knn_top")
        self.assertEqual(code, 2)
        self.assertRegex(out, "^ssl-jax: checkpoint.best: no .*; did you mean 'eval/knn_top1'")
        self.assertCountEqual([p.name for p in self.below.iterdir()], ["4", "8", "12"])
        self.assertEqual(self.run_with("--prune", "--keep=1", "--best=none")[0], 0)
        self.assertEqual([p.name for p in self.below.iterdir()], ["12"])

    def test_a_damaged_one_does_not_stay_for_a_whole_one(self):
        self.harm(12)
        self.assertEqual(self.run_with("--prune", "--keep=1")[0], 0)
        self.assertEqual([p.name for p in self.below.iterdir()], ["8"])

    def test_what_cannot_be_asked(self):
        self.assertEqual(self.run_with("--keep=1")[0], 2)
        with workdir.locked(self.folder):
            code, out = self.run_with("--prune")
        self.assertEqual(code, 2)
        self.assertIn("another trainer is at work", out)


if __name__ == "__main__":
    absltest.main()
