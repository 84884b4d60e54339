"""Signals: what is saved, the exit code, and that the run resumes as if uninterrupted."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from absl.testing import absltest

from tests.faults.runs import HANGS, TINY, Run, ended, two

FLAGS = (*TINY, "--config.train.steps=300", "--config.checkpoint.every=100")

# Until there is a file `fast`, every step takes over a second.
SLOW = """
def hang(step):
    if not pathlib.Path(__file__).with_name("fast").exists():
        time.sleep(1.1)
        hang_at_five(step)

def hang_at_five(step):"""


@pytest.mark.full
class SignalsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def run_of(self, name, *flags):
        return Run(self.folder / name, (*FLAGS, *flags))

    def end_by_signal(self, run, number, after=3):
        """Send a signal after some steps; return the process's output and exit code."""
        process = run.start()
        run.wait(process, lambda: run.reached() >= after)
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        return out + err, process.returncode

    def test_sigterm_saves_and_the_next_part_goes_on(self):
        every = ("--config.evals.every=1", "--config.train.steps=12")  # so that one is owed
        whole, run = self.run_of("whole", *every), self.run_of("told", *every)
        whole.end()
        text, code = self.end_by_signal(run, signal.SIGTERM)
        self.assertEqual(code, 75, text)
        self.assertRegex(text, "asked to end; (finishing and saving|the state of step .* is saved)")
        self.assertRegex(text, r"saved at step \d+; run the same command to resume")
        at = max(int(p.name) for p in (run.folder / "checkpoints").iterdir())
        self.assertEqual(run.reached(), at)
        self.assertNotIn("eval/knn_top1", run.metrics()[-1])
        self.assertIn(f"resuming from the checkpoint of step {at}", run.end())
        self.assertEqual(run.differences(whole), [])

    def test_sigterm_while_it_compiles(self):
        run = self.run_of("run", "--config.evals.every=-1")
        process = run.start()
        run.wait(process, (run.folder / "metrics.jsonl").exists)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 75, out + err)
        self.assertRegex(
            out, r"saved at step \d+;|ended before the first step; run the same command to st"
        )
        run.end()

    def test_ctrl_c_once_saves(self):
        run = self.run_of("run", "--config.evals.every=-1")
        text, code = self.end_by_signal(run, signal.SIGINT)
        self.assertEqual(code, 130, text)
        self.assertIn("(Ctrl-C ends at once)", text)
        self.assertRegex(text, r"saved at step \d+")

    def test_ctrl_c_twice_ends_at_once(self):
        method = self.folder / "hanging.py"
        method.write_text(HANGS)
        run = self.run_of("run", f"--config.objective.name={method}", "--config.evals.every=-1")
        process = run.start()
        run.wait(process, (self.folder / "hanging").exists)  # in the step, not before it
        process.send_signal(signal.SIGINT)
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(2)  # it waits for the step
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130)
        self.assertNotIn("saved", out)

    def test_a_step_that_takes_long_is_left_and_nothing_is_lost(self):
        method = self.folder / "slow.py"
        method.write_text(HANGS.replace("def hang(step):", SLOW))
        flags = (f"--config.objective.name={method}", "--config.train.steps=8")
        run, whole = (self.run_of(name, *flags) for name in ("run", "whole"))
        process = run.start()
        run.wait(process, (self.folder / "hanging").exists)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, out + err)
        self.assertIn("finishing and saving the current step, or in 2 s the one before it", err)
        self.assertIn("saved at step 5; run the same command to resume", out)
        (self.folder / "fast").touch()
        self.assertIn("resuming from the checkpoint of step 5", run.end())
        whole.end()
        self.assertEqual(run.differences(whole), [])

    def test_a_launcher_that_is_told_to_end_passes_it_on(self):
        run = self.run_of("run", "--restarts=2", "--config.evals.every=-1")
        text, code = self.end_by_signal(run, signal.SIGTERM)
        self.assertEqual(code, 75, text)
        self.assertRegex(text, r"saved at step \d+")
        self.assertNotIn("restart", text)

    def test_one_of_two_processes_is_told_and_both_save_the_same_step(self):
        run = self.run_of("two", "--config.train.steps=100000", "--config.evals.every=-1")
        process = two(run)
        run.wait(process[0], lambda: run.reached() >= 3)
        process[1].send_signal(signal.SIGTERM)
        outs = [p.communicate(timeout=300) for p in process]
        self.assertEqual([p.returncode for p in process], [75, 75], outs)
        (at,) = [int(p.name) for p in (run.folder / "checkpoints").iterdir()]
        self.assertIn(f"saved at step {at}", outs[0][0])
        both = two(run, f"--config.train.stop_at={at + 5}")
        outs = [ended(p) for p in both]
        self.assertIn(f"resuming from the checkpoint of step {at}", outs[0])
        whole = self.run_of("whole", "--config.train.steps=100000", "--config.evals.every=-1")
        for process in two(whole, f"--config.train.stop_at={at + 5}"):
            ended(process)
        self.assertEqual(run.metrics(), whole.metrics())

    def test_both_of_two_processes_are_told_in_a_folder_with_brackets(self):
        """The images have 12 bits: both measure one range, that of a run in one process."""
        waves = np.sin(np.arange(64 * 16 * 16).reshape(64, 16, 16, 1) / 7) + 1
        np.savez(self.folder / "x.npz", images=(waves / 2 * 4095).astype(np.uint16))
        data = (f"--data=npz:{self.folder / 'x.npz'}", "--config.evals.every=-1")
        run = self.run_of("r[1]*", *data, "--config.train.steps=100000")
        process = two(run)
        run.wait(process[0], lambda: run.reached() >= 3)
        for each in process:
            each.send_signal(signal.SIGTERM)
        outs = [each.communicate(timeout=300) for each in process]
        self.assertEqual([each.returncode for each in process], [75, 75], outs)
        (at,) = [int(path.name) for path in (run.folder / "checkpoints").iterdir()]
        self.assertIn(f"saved at step {at}", outs[0][0])
        outs = [ended(each) for each in two(run, f"--config.train.stop_at={at + 3}")]
        self.assertIn(f"resuming from the checkpoint of step {at}", outs[0])
        self.assertEqual([line["step"] for line in run.metrics()], list(range(1, at + 4)))
        alone = self.run_of("alone", *data, "--config.train.steps=100000")
        alone.end("--config.train.stop_at=1")
        configs = [json.loads((r.folder / "config.json").read_text()) for r in (run, alone)]
        self.assertEqual(configs[0]["data"]["range"], [0, 4095])
        for section in configs[0].keys() - {"train"}:
            self.assertEqual(configs[0][section], configs[1][section], section)


if __name__ == "__main__":
    absltest.main()
