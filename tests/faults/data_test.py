"""What may happen to files beside the checkpoints, and to the clock, while a run goes or rests."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from absl.testing import absltest
from sklearn.datasets import load_digits

from tests.faults.runs import HANGS, TINY, Run

FLAGS = (*TINY, "--config.train.steps=60", "--config.checkpoint.every=10")
FLAGS = (*FLAGS, "--config.evals.every=-1")

# A clock that is a day ahead for five seconds of every ten.
JUMPS = """
import time
_time = time.time
time.time = lambda: _time() + 86400 * (int(time.monotonic()) // 5 % 2)
"""


@pytest.mark.full
class DataTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def images(self, count=128):
        """A folder of so many digits."""
        place = self.folder / "images"
        place.mkdir()
        for i, image in enumerate(load_digits().images[:count]):
            big = cv2.resize((image * 15).astype(np.uint8), (16, 16))
            cv2.imwrite(str(place / f"{i:04d}.png"), big)
        return place

    def run_on(self, place, name="run", *flags):
        return Run(self.folder / name, (*FLAGS, f"--data=folder:{place}", *flags))

    def test_a_file_that_disappears_while_the_run_goes(self):
        place = self.images()
        many = "--config.data.max_bad_fraction=0.05"
        run = self.run_on(place, "run", "--config.train.steps=600", many)
        process = run.start()
        run.wait(process, lambda: run.reached() >= 12)
        (place / "0005.png").unlink()
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, out + err)
        self.assertIn("corrupt image", err)
        self.assertIn("0005.png", err)
        self.assertNotIn("Traceback", err)
        # The rest is another set of images, which is not taken without a word.
        said = run.end("--config.train.stop_at=590", code=2)
        self.assertRegex(said, "holds a run with another config: spec.num_examples .was 128, now 1")

    def test_a_folder_that_grew_between_two_parts(self):
        place = self.images()
        run = self.run_on(place)
        run.end("--config.train.stop_at=20")
        shutil.copy(place / "0000.png", place / "9999.png")
        said = run.end(code=2)
        self.assertRegex(said, "spec.num_examples .was 128, now 129.*--accept_changes")
        self.assertEqual(said.count("ssl-jax: "), 1)
        self.assertIn("step 20", run.end("--accept_changes"))

    def test_files_that_changed_between_two_parts(self):
        place = self.images()
        run = self.run_on(place)
        run.end("--config.train.stop_at=20")
        shutil.copy(place / "0001.png", place / "0000.png")
        said = run.end(code=2)
        self.assertRegex(said, "ssl-jax: the training data .* are not those of the")

    def test_a_metrics_file_with_a_torn_last_line(self):
        whole, run = Run(self.folder / "whole", FLAGS), Run(self.folder / "run", FLAGS)
        whole.end()
        run.end("--config.train.stop_at=20")
        with (run.folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 21, "train/lo')
        run.end()
        self.assertEqual(run.differences(whole), [])

    def test_a_clock_that_jumps(self):
        whole, run = Run(self.folder / "whole", FLAGS), Run(self.folder / "run", FLAGS)
        whole.end()
        (self.folder / "sitecustomize.py").write_text(JUMPS)
        run.end("--config.train.stop_at=20", PYTHONPATH=str(self.folder))
        run.end(PYTHONPATH=str(self.folder))
        self.assertEqual(run.differences(whole), [])

    def test_a_step_that_hangs(self):
        method = self.folder / "hanging.py"
        method.write_text(HANGS)
        run = Run(self.folder / "run", (*FLAGS, f"--config.objective.name={method}"))
        out = run.end("--stall_timeout=30", code=75)
        self.assertIn("ssl-jax: all threads of this process:", out)
        self.assertIn("loop.py", out)
        self.assertRegex(out, r"ssl-jax: no progress for 30 s: still at step of step \d")

    def test_other_numbers_of_devices(self):
        """From four devices to two and to eight: with batch norm, and a memory of the data set."""
        for name in ("simclr", "instdisc"):
            flags = (f"--config={name}:digits", *TINY[2:], *FLAGS[len(TINY) :])
            # Small plain steps: what grows is an error of the restore, not one of rounding.
            flags = (*flags, "--config.optim.name=sgd", "--config.optim.lr=1e-4")
            base = Run(self.folder / f"{name}_4", flags, devices=4)
            base.end("--config.train.stop_at=20")
            for devices in (2, 8):
                run = Run(self.folder / f"{name}_{devices}", flags, devices)
                shutil.copytree(base.folder, run.folder)
                self.assertIn("step 20", run.end("--config.train.stop_at=25"))
            base.end("--config.train.stop_at=25")
            losses = [
                [line["train/loss"] for line in Run(self.folder / f"{name}_{n}").metrics()]
                for n in (2, 4, 8)
            ]
            self.assertLen(losses[0], 25)
            np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
            np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
