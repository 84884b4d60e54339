"""`ssl-jax compile` without libtpu: everything but the compiler itself."""

import contextlib
import importlib.util
import io
import json
from unittest import mock

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.cli import compile as command
from ssl_jax.core.errors import UserError
from ssl_jax.run import compile, compile_worker
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment

GIB = 2**30
FITS = {
    "device": "TPU v5 lite",
    "mesh": {"replica": 2, "data": 4, "fsdp": 1},
    "global_batch": 64,
    "compile_seconds": 12.5,
    "compile_cpu_seconds": 11.5,
    "fits": True,
    "message": "",
    "memory": {
        "parameters": GIB,
        "optimizer": 2 * GIB,
        "extra": 0,
        "batch": 0,
        "padding": 0,
        "activations": 3 * GIB,
        "results": 0,
        "program": 0,
        "peak": 6 * GIB,
        "capacity": 16 * GIB,
    },
    "flops": 3 * 10**12,
    "flops_per_image": 5e10,
    "bytes": 10**9,
    "bytes_per_image": 8e6,
    "links": [
        {
            "kind": "all-gather",
            "axes": "data",
            "count": 7,
            "bytes": 10**6,
            "sent": 10**6,
            "beside": 4 * 10**5,
        }
    ],
    "unknown": ["while.3"],
    "options": {"xla_fast": "true"},
    "bound": {
        "compute": 0.002,
        "memory": 0.001,
        "ici": 0.0005,
        "dcn": 0.0,
        "seconds": 0.002,
        "images_per_second": 32000.0,
    },
}
TOO_LARGE = FITS | {
    "fits": False,
    "message": "Used 20.29G of 15.75G hbm",
    "memory": FITS["memory"] | {"peak": None, "activations": None},
    "flops": 0,
    "links": [],
    "unknown": [],
    "bound": None,
}


class CompileTest(parameterized.TestCase):
    def run_cli(self, *argv, report=None):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            if report:
                stack.enter_context(mock.patch.object(command, "compile_step", return_value=report))
            code = cli.run(["compile", *argv])
        return code, out.getvalue(), err.getvalue()

    def test_prints_what_the_step_takes(self):
        code, out, _ = self.run_cli("--config=simclr:imagenet", "--topology=v5e:2x4", report=FITS)
        self.assertEqual(code, 0)
        parts = (
            "8 TPU v5 lite chips",
            "6.000",
            "all-gather",
            "0.400",
            "while.3",
            "xla_fast=true",
            "32,000 images/s",
        )
        for part in parts:
            self.assertIn(part, out)
        self.assertIn("a bound, not a prediction", out)

    def test_says_that_it_does_not_fit(self):
        flags = ("--config=simclr:imagenet", "--topology=v5e:2x4")
        code, out, _ = self.run_cli(*flags, report=TOO_LARGE)
        self.assertEqual(code, 1)
        self.assertIn("does not fit Used 20.29G of 15.75G hbm", out)

    def test_json_is_one_line(self):
        flags = ("--config=simclr:imagenet", "--topology=v5e:2x4", "--json")
        code, out, _ = self.run_cli(*flags, report=FITS)
        self.assertEqual((code, json.loads(out)), (0, FITS))
        self.assertLen(out.splitlines(), 1)

    @parameterized.parameters(
        (("--topology=v5e:2x4",), "--config is missing"),
        (("--config=simclr:imagenet",), "--topology is missing"),
        (
            ("--config=simclr:imagenet", "--topology=v5e:2x4", "--slices=two"),
            "--slices: expected int, got 'two'",
        ),
        (("--config=simclr:imagenet", "--topology=v5e:2x4", "--sliced=2"), "unknown flag"),
    )
    def test_bad_flags(self, argv, message):
        code, _, err = self.run_cli(*argv)
        self.assertEqual(code, 2)
        self.assertLen(err.splitlines(), 1)
        self.assertIn(message, err)

    def test_without_libtpu_one_line_says_what_to_install(self):
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            config = configured("simclr:imagenet", [])
            with self.assertRaisesRegex(UserError, r"pip install -e '\.\[tpu\]'"):
                compile.compile_step(config, "v5e:2x4")

    @parameterized.parameters(
        "v3:2x2", "v5e", "v5e:8", "v5e:8x8x8", "v5e:32x32", "v5p:4x4", "v4:axb"
    )
    def test_a_bad_topology_lists_the_kinds(self, topology):
        with self.assertRaisesRegex(UserError, "v4, v5e, v5p, v6e"):
            compile_worker.devices(topology, 1)

    def test_needs_no_data(self):
        run = Experiment.from_config(compile.with_spec(configured("simclr:imagenet", [])))
        self.assertEqual(run.spec.num_examples, 1_281_167)
        self.assertEqual(run.spec.steps_per_epoch, 1_281_167 // 4096)
        captioned = compile.with_spec(configured("clip:imagenet", []))
        self.assertEqual(captioned["spec"]["vocabulary"], 49152 + 3)
        json.dumps(captioned)  # goes to another process

    def test_takes_the_sizes_of_data_that_are_named(self):
        config = configured("simclr:imagenet", [("train.batch_size", 64)], data="digits")
        self.assertEqual(compile.with_spec(config)["spec"]["num_examples"], 1437)

    def test_compares_what_is_recomputed(self):
        """The lowest bound among the policies that fit."""
        seconds = {"none": 0.001, "full": 0.004, "dots": 0.003, "wide": 0.002}

        def compile_step(config, topology, slices):
            policy = config["backbone"]["remat"]
            bound = FITS["bound"] | {"seconds": seconds[policy]}
            return (TOO_LARGE if policy == "none" else FITS) | {"bound": bound}

        config = configured("mae:imagenet", [])
        with mock.patch.object(compile, "compile_step", compile_step):
            report = compile.compare_remat(config, "v5e:2x2", 1, command.terminal())
        self.assertEqual(report["remat"], "wide")
        self.assertEqual(list(report["policies"]), list(seconds))

    def test_a_backbone_without_policies(self):
        config = configured("colorization:imagenet", [])
        with self.assertRaisesRegex(UserError, "vgg_dilated"):
            compile.compare_remat(config, "v5e:2x2", 1, command.terminal())

    @parameterized.parameters((100, 64), (16, 16), (5, 4), (0, 1))
    def test_finds_the_largest_batch(self, most, largest):
        """Search from 32 images per chip, up or down."""
        sizes = []

        def compile_step(config, topology, slices):
            size = config["train"]["batch_size"] // 8
            sizes.append(size)
            return (FITS if size <= most else TOO_LARGE) | {"global_batch": size * 8}

        config = configured("simclr:imagenet", [("train.batch_size", 8 * 32)])
        with mock.patch.object(compile, "compile_step", compile_step):
            report = compile.find_batch(config, "v5e:2x2", 2, command.terminal())
        self.assertEqual(report["global_batch"], largest * 8)
        self.assertEqual(report["fits"], most > 0)
        self.assertLen(set(sizes), len(sizes))


if __name__ == "__main__":
    absltest.main()
