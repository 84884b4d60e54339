"""`ssl-jax doctor`: its report, its exit code, and what it advises for accelerators."""

import contextlib
import importlib.util
import io
import os
import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.cli import doctor
from ssl_jax.run import machine
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.machine import Accelerator, StepRate, advice

GPU, TPU = Accelerator("gpu", "NVIDIA A100", "590.1"), Accelerator("tpu", "TPU chip")


class DoctorTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def command(self, *argv: str, rate: StepRate | Exception | None = None) -> tuple[int, str]:
        """Run the subcommand with a step of this rate; return its exit code and what it prints."""
        out = io.StringIO()
        step = mock.Mock(side_effect=[rate or StepRate(1.0, 9, 100.0, 5.0)] * 2)
        with contextlib.redirect_stdout(out), mock.patch.object(machine, "train_rate", step):
            code = cli.run(["doctor", *argv])
        return code, out.getvalue()

    def test_a_machine_that_can_train(self):
        code, out = self.command(f"--workdir={self.folder / 'W'}")
        self.assertEqual(code, 0, out)
        self.assertContainsInOrder(
            ["versions", "jax", "devices", "8 x cpu", "caches", "writable", "workdir", "writable"],
            out,
        )
        self.assertContainsInOrder(["simclr:digits, batch 256: 100 images/s", "can train"], out)
        self.assertEqual(list(self.folder.iterdir()), [])

    @parameterized.parameters(
        (RuntimeError("no cuDNN\nat all"), "problem: simclr:digits: RuntimeError: no cuDNN"),
        (StepRate(1.0, 9, 100.0, float("nan")), "problem: simclr:digits: the loss is nan"),
    )
    def test_a_step_that_fails(self, rate, message):
        code, out = self.command(rate=rate)
        self.assertEqual(code, 1, out)
        self.assertIn(message, out)

    def test_a_folder_that_cannot_be_written(self):
        (self.folder / "file").touch()
        cache = {"SSL_JAX_CACHE": str(self.folder / "file" / "c")}
        with mock.patch.dict(os.environ, cache):
            code, out = self.command(f"--workdir={self.folder / 'file' / 'W'}")
        self.assertEqual(code, 1, out)
        self.assertRegex(out, "advice: data indexes.*cannot be written: Not a directory")
        self.assertRegex(out, "workdir +problem: the run: .*cannot be written: Not a directory")

    def test_the_speed_of_the_data(self):
        np.savez(self.folder / "x.npz", images=np.zeros((64, 40, 40, 3), np.uint8))
        with mock.patch.object(doctor, "READ_SECONDS", 0.0):
            code, out = self.command(f"--data=npz:{self.folder / 'x.npz'}")
            self.assertEqual(code, 0, out)
            self.assertRegex(out, r"one core decodes and crops [\d,]+ images/s")
            self.assertRegex(out, r"takes 100 images/s: 1 core\(s\) of \d+\n")
            fast = StepRate(1.0, 9, 1e12, 5.0)
            code, out = self.command(f"--data=npz:{self.folder / 'x.npz'}", rate=fast)
        self.assertEqual(code, 0, out)
        self.assertRegex(out, r"advice: .* but there are \d+; decode once: ssl-jax prepare")

    @parameterized.parameters(
        (GPU, "gpu", {}, "", "^$"),
        (GPU, "cpu", {"JAX_PLATFORMS": "cpu"}, "", "hidden by JAX_PLATFORMS=cpu"),
        (GPU, "cpu", {"JAX_PLATFORMS": "cuda,cpu"}, "", r"lacks its CUDA plugin; .*'\.\[gpu\]'$"),
        (GPU, "cpu", {}, "jax_cuda13_plugin", "plugin is installed"),
        (Accelerator("gpu", "NVIDIA T4", "535.2"), "cpu", {}, "", "535.2 is older .*cuda12"),
        (TPU, "cpu", {}, "", r"lacks libtpu; .*'\.\[tpu\]'$"),
        (TPU, "cpu", {}, "libtpu", "another process"),
    )
    def test_advice(self, accelerator, platform, env, installed, expected):
        there = lambda name: True if name == installed else None  # noqa: E731
        with mock.patch.object(importlib.util, "find_spec", there):
            self.assertRegex(advice(accelerator, platform, env), expected)

    def test_accelerators_without_jax(self):
        done = subprocess.CompletedProcess([], 0, "NVIDIA H100, 80GB, 580.95\n\n", "")
        with (
            mock.patch.object(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi"),
            mock.patch.object(machine.subprocess, "run", lambda *args, **options: done),
        ):
            self.assertEqual(machine.gpus(), [Accelerator("gpu", "NVIDIA H100, 80GB", "580.95")])
        # 0x0042 is Google's network card, which every machine of its cloud has.
        self.assertEqual(machine.tpus({}, [("0x1ae0", "0x0042"), ("0x8086", "0x0063")]), [])
        self.assertEqual(machine.tpus({}, [("0x1ae0", "0x0063")]), [TPU])
        (named,) = machine.tpus({"TPU_NAME": "pod"}, [])
        self.assertEqual((named.extra, named.name), ("tpu", "TPU (TPU_NAME=pod)"))

    def test_the_rates_are_measured(self):
        """The only test here that compiles: a step of a narrow network."""
        tiny = ("backbone.width", 4), ("train.batch_size", 16), ("objective.projector", (8, 8))
        experiment = Experiment.from_config(configured("simclr:digits", tiny))
        rate = machine.train_rate(experiment, 0.0)
        self.assertEqual(rate.steps, machine.FEWEST)
        self.assertGreater(rate.images, 0)
        self.assertTrue(np.isfinite(rate.loss))
        self.assertGreater(machine.read_rate(experiment, 0.0), 0)
        self.assertEqual([machine.cores_for(n, 10.0) for n in (1, 10, 11)], [1, 1, 2])


if __name__ == "__main__":
    absltest.main()
