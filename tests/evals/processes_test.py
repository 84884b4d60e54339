"""Protocols in two processes of two devices compute the numbers of one process of one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import absltest

from tests.evals.setting_files import files
from tests.faults.runs import meeting

ROOT = Path(__file__).parents[2]
DETECTIONS = 3  # of `measuring`: numbers, an error, a failure
# One of 18 held-out examples: the weakest penalty is chosen, and with it features that differ by
# 1e-8 of their values classify one of them otherwise.
LOOSE = {"logistic": 1 / 18 + 1e-4}


class ProcessesTest(absltest.TestCase):
    @pytest.mark.full
    def test_two_processes_are_one(self):
        folder = Path(self.create_tempdir().full_path)
        (folder / "files.json").write_text(json.dumps(files(folder)))
        one = self.measure(folder, processes=1, devices=1)[0]
        starts = folder / "cache" / "detection" / "starts"
        self.assertLen(starts.read_text().splitlines(), DETECTIONS)
        first, second = self.measure(folder, processes=2, devices=2)
        self.assertLen(starts.read_text().splitlines(), 2 * DETECTIONS)  # by one of the two
        self.assertEqual(first, second)
        self.assertEqual((one.pop("devices"), first.pop("devices")), (1, 4))
        self.assertEqual(one.keys(), first.keys())
        for key, value in one.items():
            # Sums over devices have another order; trained heads differed by up to 3e-5.
            delta = LOOSE.get(key.partition(" ")[0], 1e-4 * max(1, abs(value)))
            self.assertAlmostEqual(first[key], value, delta=delta, msg=key)

    def measure(self, folder, processes, devices):
        env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
        env |= {"SSL_JAX_CACHE": str(folder / "cache")}
        coordinator = meeting().partition("=")[2]
        started = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.evals.measuring"),
                    *(folder, str(processes), str(i), coordinator),
                ],
                cwd=ROOT,
                env=env,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(processes)
        ]
        for process in started:
            _, err = process.communicate(timeout=3000)
            self.assertEqual(process.returncode, 0, err)
        paths = [folder / f"numbers-{processes}-{i}.json" for i in range(processes)]
        return [json.loads(path.read_text()) for path in paths]


if __name__ == "__main__":
    absltest.main()
