"""Several processes on this machine: they compute the numbers of one process, read each other's
checkpoints, and exit when one of them dies.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absl.testing import absltest

from ssl_jax import cli
from ssl_jax.core.distributed import LOST
from ssl_jax.training.metrics import read_metrics
from tests.faults.runs import meeting

ROOT = Path(__file__).parents[2]
TINY = (
    "--config.backbone.width=4",
    "--config.train.batch_size=32",
    "--config.train.log_every=1",
    # Small plain steps: what grows is an error of the method, not one of rounding.
    "--config.optim.name=sgd",
    "--config.optim.lr=1e-4",
    "--config.checkpoint.every=10",
    "--config.evals.fewshot.shots=(5,)",
    "--config.evals.fewshot.draws=2",
    "--config.evals.clustering.runs=1",
    "--config.evals.max_train=200",
    "--config.evals.max_eval=96",
)
SIMCLR = ("--config=simclr:digits", "--config.objective.projector=(8,8)")
MEMORY = ("--config=instdisc:digits", "--config.evals.every=-1")
CLUSTERS = (
    "--config=deepcluster_v2:digits",
    # With seed 0 the gradient's norm differs by 3e-4 at step 16, and nothing before or after it: a
    # kink of the loss, at which the order of a sum decides, and no difference of the state.
    "--config.train.seed=1",
    "--config.objective.epochs=0.1",
    "--config.evals.every=-1",
)


def start(*argv, processes=1, devices=1):
    """Start `ssl-jax train` in `processes` processes with `devices` devices each."""
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    where = meeting()
    places = [
        (where, f"--num_processes={processes}", f"--process_id={i}") for i in range(processes)
    ]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "ssl_jax", "train", *argv, *(place if processes > 1 else ())],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]


class ProcessesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def train(self, name, *flags, **how):
        """Run to the end; return what the first process printed."""
        argv = (f"--workdir={self.folder / name}", *TINY, "--config.train.steps=20", *flags)
        outs = []
        for process in start(*argv, **how):
            out, err = process.communicate(timeout=900)
            self.assertEqual(process.returncode, 0, err)
            self.assertEqual(err, "")
            outs.append(out)
        for quiet in outs[1:]:  # but for Gloo's lines, which its threads may tear
            self.assertNotRegex(quiet, "images|step|metric|written|next:")
        return outs[0]

    def assert_same_metrics(self, a, b):
        lines = [read_metrics(self.folder / name) for name in (a, b)]
        self.assertEqual([x["step"] for x in lines[0]], [x["step"] for x in lines[1]])
        self.assertEqual(lines[0][-1]["step"], 20)
        for first, second in zip(*lines, strict=True):
            for key in first.keys() | second.keys():
                if not key.startswith("perf/"):
                    tolerance = 1e-4 * max(abs(first[key]), 1.0)
                    self.assertAlmostEqual(first[key], second[key], delta=tolerance, msg=key)

    def test_two_processes_are_one_with_as_many_devices(self):
        out = self.train("one", *SIMCLR, devices=4)
        self.assertIn("on 4 cpu device(s)", out)
        out = self.train("two", *SIMCLR, processes=2, devices=2)
        self.assertIn("on 4 cpu device(s)", out)
        self.assert_same_metrics("one", "two")
        # Their checkpoint is restored by one process, which here has eight devices.
        code = cli.run(["evaluate", f"--workdir={self.folder / 'two'}", "--eval=knn", "--step=20"])
        self.assertEqual(code, 0)
        results = json.loads((self.folder / "two" / "eval" / "results.jsonl").read_text())[
            "results"
        ]
        summary = json.loads((self.folder / "one" / "summary.json").read_text())
        for key, value in results.items():
            self.assertAlmostEqual(value, summary[key], delta=1e-3 * max(1, abs(value)), msg=key)

    def test_two_processes_go_on_where_one_stopped(self):
        """Use a memory as long as the data set, split by rows."""
        self.check_resume(*MEMORY)

    @pytest.mark.full
    def test_two_processes_cluster_the_data_set_together(self):
        self.check_resume(*CLUSTERS)

    def check_resume(self, *flags):
        self.train("one", *flags, devices=4)
        shutil.copytree(self.folder / "one", self.folder / "two")
        shutil.rmtree(self.folder / "two" / "checkpoints" / "20")
        out = self.train("two", *flags, processes=2, devices=2)
        self.assertIn("resuming from the checkpoint of step 10", out)
        self.assert_same_metrics("one", "two")

    def test_a_dead_process_ends_the_others(self):
        self.check_death(1, r"^ssl-jax: process 1 \(.+\) has been silent for 5 s; it was at .+\n$")

    def test_a_dead_coordinator_ends_the_others(self):
        """JAX prints first, as it aborts the process."""
        self.check_death(0, r"\nssl-jax: process 0, which coordinates the run, does not answer\n$")

    def check_death(self, victim, message):
        path = self.folder / "killed"
        limits = ("--dead_timeout=5", "--config.train.steps=100000", "--config.evals.every=-1")
        both = start(f"--workdir={path}", *SIMCLR, *TINY, *limits, processes=2, devices=1)
        deadline = time.monotonic() + 900
        while not (read_metrics(path) and read_metrics(path)[-1]["step"] > 2):
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(both[0].poll(), "it ended before its time")
            time.sleep(0.1)
        both[victim].send_signal(signal.SIGKILL)
        both[victim].communicate()
        survivor = both[1 - victim]
        _, err = survivor.communicate(timeout=120)
        self.assertEqual(survivor.returncode, LOST, err)
        self.assertRegex(err, message)


if __name__ == "__main__":
    absltest.main()
