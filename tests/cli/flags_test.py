"""Every flag of every subcommand and launcher: its help, its default and a wrong value."""

import contextlib
import dataclasses
import importlib
import io
import keyword
import os
import typing
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.core import config
from ssl_jax.run import flags as command_line

LAUNCHERS = ("gke", "local", "skypilot", "slurm", "tpu_vm")


def module(name: str) -> typing.Any:
    return importlib.import_module(f"ssl_jax.cli.{name}" + "_" * keyword.iskeyword(name))


FLAGS = {name: module(name).Flags for name in cli.subcommands()}
FLAGS |= {f"launch.{name}": importlib.import_module(f"launch.{name}").Flags for name in LAUNCHERS}
WRONG = "no such value"  # no number, switch or choice


def takes_any_text(hint: typing.Any) -> bool:
    kinds = config.options(hint)
    return str in kinds or Path in kinds or tuple[str, ...] in kinds


def typed() -> typing.Iterator[tuple[str, str]]:
    """Pairs of a subcommand and one of its flags that does not take every text."""
    for command in cli.subcommands():
        for name, hint in config.types_of(FLAGS[command]).items():
            if name != command_line.OVERRIDES and not takes_any_text(hint):
                yield command, name


class EveryFlagTest(parameterized.TestCase):
    @parameterized.parameters(*FLAGS)
    def test_help(self, command):
        lines = list(command_line.help_lines(FLAGS[command]))
        fields = command_line.declared(FLAGS[command])
        self.assertCountEqual(fields, dataclasses.fields(FLAGS[command]))
        for field, line in zip(fields, lines, strict=True):
            shown = field.metadata.get("shown", field.name)
            name, text = line.strip().split(maxsplit=1)
            self.assertEqual(name, f"--{shown}")
            self.assertStartsWith(text, field.metadata["help"])
            self.assertGreater(len(field.metadata["help"]), 3, name)
            self.assertNotEndsWith(text, ".", name)

    @parameterized.parameters(*FLAGS)
    def test_defaults_are_of_the_declared_type(self, command):
        cls = FLAGS[command]
        fields = {f.name: f for f in dataclasses.fields(cls) if f.name != command_line.OVERRIDES}
        values = {name: f.default for name, f in fields.items()}
        for name, value in values.items():
            if value is dataclasses.MISSING:
                names = typing.get_args(config.types_of(cls)[name])
                values[name] = names[0] if names and names[0] is not str else "x"
        made = config.build(cls, values, config.FLAGS)
        for name, field in fields.items():
            if field.default is not dataclasses.MISSING:
                value = getattr(made, name)
                self.assertEqual((value, type(value)), (field.default, type(field.default)), name)

    @parameterized.parameters(*typed())
    def test_a_value_of_the_wrong_type(self, command, name):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            code = cli.run([command, f"--{name}={WRONG}"])
        self.assertEqual(code, 2)
        (line,) = err.getvalue().splitlines()
        self.assertRegex(line, f"^ssl-jax: --{name}: expected .*, got '{WRONG}'$")

    def test_there_are_such_flags(self):
        self.assertContainsSubset(
            {("train", "restarts"), ("export", "format"), ("embed", "max_bad_fraction")},
            set(typed()),
        )


class ThreadsTest(parameterized.TestCase):
    @parameterized.parameters(({"JAX_NUM_CPU_DEVICES": "64"},), ({"JAX_NUM_CPU_DEVICES": "2"},))
    def test_devices_of_the_cpu_get_more_threads_than_they_block(self, env):
        with mock.patch.dict(os.environ, env):
            os.environ.pop("PJRT_NPROC", None)
            self.run_a_subcommand()
            threads = int(os.environ["PJRT_NPROC"])
        self.assertGreater(threads, 2 * int(env["JAX_NUM_CPU_DEVICES"]))
        self.assertGreaterEqual(threads, os.cpu_count())

    @parameterized.parameters(({},), ({"JAX_NUM_CPU_DEVICES": "1"},))
    def test_one_device_keeps_what_xla_chooses(self, env):
        with mock.patch.dict(os.environ, env):
            os.environ.pop("PJRT_NPROC", None)
            if not env:
                os.environ.pop("JAX_NUM_CPU_DEVICES", None)
            self.run_a_subcommand()
            self.assertNotIn("PJRT_NPROC", os.environ)

    def test_a_value_of_the_user_stays(self):
        with mock.patch.dict(os.environ, JAX_NUM_CPU_DEVICES="8", PJRT_NPROC="9"):
            self.run_a_subcommand()
            self.assertEqual(os.environ["PJRT_NPROC"], "9")

    def run_a_subcommand(self):
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(cli.run(["--version"]), 0)


if __name__ == "__main__":
    absltest.main()
