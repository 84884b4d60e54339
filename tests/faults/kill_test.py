"""SIGKILL at a few moments: the run ends with the numbers of an undisturbed run.

benchmarks/faults.py does it 30 times for each of five methods; docs/faults.md has the figures.
"""

import shutil
from pathlib import Path

import pytest
from absl.testing import absltest

from tests.faults.runs import TINY, Run

FLAGS = (*TINY, "--config.train.steps=40", "--config.checkpoint.every=5")
FLAGS = (*FLAGS, "--config.evals.every=20")


@pytest.mark.full
class KillTest(absltest.TestCase):
    def test_killed_before_the_first_save_and_then_twice(self):
        folder = Path(self.create_tempdir().full_path)
        whole, run = Run(folder / "whole", FLAGS), Run(folder / "run", FLAGS)
        whole.end()
        for step in (0, 7, 22):
            process = run.start()
            run.wait(process, lambda step=step: run.reached() >= step)
            run.kill(process)
        run.end()
        self.assertEqual(run.differences(whole), [])

    def test_what_lies_in_a_damaged_checkpoint_is_made_again(self):
        folder = Path(self.create_tempdir().full_path)
        whole, run = Run(folder / "whole", FLAGS), Run(folder / "run", FLAGS)
        whole.end()
        shutil.copytree(whole.folder, run.folder)
        for path in (run.folder / "checkpoints" / "40").rglob("ocdbt*/d/*"):
            path.write_bytes(path.read_bytes()[:-7])
        out = run.end()
        self.assertRegex(out, "checkpoint 40 is not used: state/ocdbt.* is not what was written")
        self.assertIn("resuming from the checkpoint of step 35", out)
        self.assertEqual(run.differences(whole), [])


if __name__ == "__main__":
    absltest.main()
