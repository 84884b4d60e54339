"""Disks that are full, read-only or fail midway: training continues and reports it."""

import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from absl.testing import absltest

from tests.faults.runs import TINY, Run, ended, two

FLAGS = (*TINY, "--config.train.steps=400", "--config.checkpoint.every=20")
FLAGS = (*FLAGS, "--config.evals.every=-1")


# A method whose processes wait for each other's parts of a checkpoint for ten seconds.
HASTY = """
from ssl_jax.objectives.simclr import make
from ssl_jax.training import checkpoint

checkpoint.PATIENCE = 10
"""
HALF = ".orbax-checkpoint-tmp"  # cleared when a save or a run begins


def mounted(folder: Path) -> bool:
    """Mount a disk of 2 MB; return whether that succeeded."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True
    )
    return done.returncode == 0


def at_most(size: int):
    """Return a function that limits the size of files that a process writes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.full
class DiskTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.whole = Run(self.folder / "whole", FLAGS)
        self.whole.end()

    def disk(self):
        """Provide a run on its own small disk."""
        place = self.folder / "disk"
        place.mkdir()
        if not mounted(place):
            self.skipTest("mounting a small disk takes root")
        self.addCleanup(subprocess.run, ["umount", "-l", place], check=True)
        return Run(place / "run", FLAGS)

    def complete(self, run):
        """Return the steps of the complete checkpoints; anything else fails the test."""
        folders = [p for p in (run.folder / "checkpoints").iterdir() if p.suffix != HALF]
        for folder in folders:
            self.assertTrue((folder / "manifest.json").exists(), folders)
        return sorted(int(folder.name) for folder in folders)

    def fill(self, run):
        """Fill the remaining space."""
        block = b"x" * 4096
        with (run.folder.parent / "filling").open("wb", buffering=0) as file:
            try:
                while file.write(block):
                    pass
            except OSError:
                return

    def test_full_for_a_while(self):
        run = self.disk()
        process = run.start()
        run.wait(process, lambda: run.reached() >= 45)
        process.send_signal(signal.SIGSTOP)  # so that it does not end before
        self.fill(run)
        process.send_signal(signal.SIGCONT)
        time.sleep(2)
        (run.folder.parent / "filling").unlink()
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, out + err)
        self.assertRegex(out, r"step \d+ could not be saved, training continues: .*No space left")
        self.assertNotIn("Traceback", err)
        self.assertEqual(self.complete(run), [380, 400])
        self.assertEqual(run.differences(self.whole), [])

    def test_full_to_the_end(self):
        run = self.disk()
        process = run.start()
        run.wait(process, lambda: run.reached() >= 45)
        self.fill(run)
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 2, out + err)
        self.assertRegex(err, r"the state of step 400 could not be saved: .*No space left on dev")
        self.assertNotIn("Traceback", err)
        at = max(self.complete(run))
        (run.folder.parent / "filling").unlink()
        self.assertIn(f"resuming from the checkpoint of step {at}", run.end())
        self.assertEqual(run.differences(self.whole), [])

    def test_read_only_for_a_while(self):
        run = Run(self.folder / "run", FLAGS)
        process = run.start()
        run.wait(process, lambda: run.reached() >= 45)
        process.send_signal(signal.SIGSTOP)
        place = run.folder / "checkpoints"
        if subprocess.run(["mount", "--bind", place, place], capture_output=True).returncode:
            self.addCleanup(run.kill, process)
            self.skipTest("mounting takes root")
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        process.send_signal(signal.SIGCONT)
        time.sleep(2)
        subprocess.run(["umount", "-l", place], check=True)
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, out + err)
        self.assertRegex(out, r"step \d+ could not be saved, training continues: .*Read-only file")
        self.assertNotIn("Traceback", err)
        self.assertEqual(run.differences(self.whole), [])

    def test_a_folder_that_cannot_be_written_from_the_start(self):
        place = self.folder / "file"
        place.write_text("")
        out = Run(place / "run", FLAGS).end(code=2)
        self.assertRegex(out, "cannot write to --workdir=.*file/run: Not a directory")

    def test_files_that_may_not_grow(self):
        """Limit the file size as a quota does, without root."""
        run = Run(self.folder / "small", FLAGS)
        process = run.start(preexec=at_most(30_000))
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 2, out + err)
        self.assertRegex(out, "step 20 could not be saved, training continues")
        self.assertNotIn("Traceback", err)
        self.assertEqual(self.complete(run), [])
        shutil.rmtree(run.folder)
        run.end()
        self.assertEqual(run.differences(self.whole), [])

    def test_one_of_two_processes_cannot_write(self):
        method = self.folder / "hasty.py"
        method.write_text(HASTY)
        split = ("--config.mesh.fsdp=2", "--config.mesh.fsdp_min_size=1")
        flags = (*FLAGS, *split, "--config.train.steps=30", f"--config.objective.name={method}")
        run = Run(self.folder / "two", flags)
        processes = two(run, preexecs=(None, at_most(3_000)))
        (out, _), (_, err) = (process.communicate(timeout=600) for process in processes)
        self.assertEqual([process.returncode for process in processes], [2, 2], out + err)
        self.assertRegex(out, "step 20 could not be saved, training continues: Timeout")
        self.assertRegex(err, r"process 1 \(.*\): step 20 could not be saved.*File too large")
        self.assertEqual(run.reached(), 30)
        self.assertEqual(self.complete(run), [])
        for process in two(run):
            ended(process)
        self.assertEqual(self.complete(run), [20, 30])


if __name__ == "__main__":
    absltest.main()
