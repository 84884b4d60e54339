"""Flags, commands and helpers shared by all launchers."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ssl_jax.core import trust
from ssl_jax.core.errors import UserError, of_system
from ssl_jax.run import flags as command_line

FLAGS = {
    "config": "config of the run, METHOD:RECIPE or PATH.py:RECIPE",
    "data": "training images, as for `ssl-jax train`",
    "eval_data": "evaluation images",
    "workdir": "folder of the run, on a file system that all hosts share",
    "study": "study whose runs take one host each: FILE.py:NAME or studies:NAME, with --workdir",
    "restarts": "maximum number of restarts in a row without a newer checkpoint; default 5",
    "evaluate": "a sweep instead of a run: WORKDIR or WORKDIR@STEP, several separated by commas",
    "eval": "protocols of the sweep, such as knn,fewshot; default: those of each run",
    "sweep": "settings of the protocols to vary, as for `ssl-jax evaluate`; may be repeated",
    "suite": "data sets of the sweep, as for `ssl-jax evaluate`",
    "num_hosts": "number of machines, or of processes for launch.local; default 1",
    "name": "name of the job, lower-case letters, digits and hyphens; default ssl-jax",
    "dry_run": "only print what would be written and run",
    "config.SECTION.KEY": "any key of the config, --config.optim.lr=0.3",
}
Commands = tuple[tuple[str, ...], ...]
# A DNS label, as Kubernetes requires; it appends about 20 characters for the names of pods.
_NAME = re.compile("[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9_./][\w.,:@/+=-]*", re.ASCII)


@dataclass(frozen=True)
class Job:
    """A run, or a sweep of evaluations or of the runs of a study.

    Attributes:
      name: name of the job.
      commands: argument lists of `ssl-jax`; one for a run, several for a sweep.
      sweep: the commands are independent, each on one host.
      num_hosts: number of hosts of a run.
      dry_run: print only.
      options: values of all flags, including the launcher's own.
    """

    name: str
    commands: Commands
    sweep: bool
    num_hosts: int
    dry_run: bool
    options: Mapping[str, str]

    def option(self, name: str, default: str = "") -> str:
        return self.options[name] or default

    def word(self, name: str, default: str = "") -> str:
        """Return a flag that becomes a word of a script or of another program's command.

        Raises:
          UserError: it contains a space, a line break or another character unsafe in a shell word.
        """
        text = self.option(name, default)
        if text and not _WORD.fullmatch(text):
            raise UserError(f"--{name}={text}: expected letters, digits and any of _.,:@/+=-")
        return text

    def number(self, name: str, default: int) -> int:
        """Parse a flag as a positive number.

        Raises:
          UserError: the value is not a positive whole number.
        """
        return int(command_line.whole(name, self.options[name], default, least=1))

    def shell(self, index: str) -> str:
        """Render bash for the command, or for the one that the variable `index` selects."""
        lines = [shlex.join(command) for command in self.commands]
        if not self.sweep:
            return lines[0]
        cases = "\n".join(f"  {i}) {line} ;;" for i, line in enumerate(lines))
        return f'case "${{{index}}}" in\n{cases}\nesac'


def parse(argv: Sequence[str], doc: str | None, own: Mapping[str, str]) -> Job:
    """Parse the command line of `python -m launch.X`; `own` has the flags of X alone.

    Raises:
      UserError: an unknown flag, or neither a run nor a sweep.
    """
    argv = ["--dry_run=true" if word == "--dry_run" else word for word in argv]
    flags, overrides = command_line.parse(
        argv, doc, {**FLAGS, **own}, configurable=True, repeated=("sweep",), here=False
    )
    values = flags.flag_values_dict()
    name = values["name"] or "ssl-jax"
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--name={name}: expected at most 40 lower-case letters, digits and hyphens, a letter "
            "first, such as simclr-imagenet"
        )
    if bool(values["workdir"]) == bool(values["evaluate"]):
        raise UserError("expected --workdir=W for a run or --evaluate=W1,W2@STEP,... for a sweep")
    if values["evaluate"]:
        commands = tuple(
            _evaluation(item, values["eval"], values["suite"], values["sweep"])
            for item in _items(values["evaluate"])
        )
    else:
        restarts = command_line.whole("restarts", values["restarts"], 5)
        commands = tuple(
            ("ssl-jax", "train", *words, f"--restarts={restarts}")
            for words in _runs(values, overrides)
        )
    if values[trust.FLAG]:
        commands = tuple((*command, f"--{trust.FLAG}") for command in commands)
    return Job(
        name,
        commands,
        bool(values["evaluate"] or values["study"]),
        command_line.whole("num_hosts", values["num_hosts"], 1, least=1),
        values["dry_run"].lower() in ("true", "1"),
        values,
    )


def _runs(
    values: Mapping[str, Any], overrides: Sequence[command_line.Override]
) -> Iterable[Sequence[str]]:
    """List the arguments of `ssl-jax train` for a run, or for each run of a study."""
    data = {name: values[name] for name in ("data", "eval_data")}
    if not values["study"]:
        arguments = {"config": values["config"], **data, "workdir": values["workdir"]}
        words = [f"--{name}={value}" for name, value in arguments.items() if value]
        return [[*words, *(f"--config.{key}={value}" for key, value in overrides)]]
    from ssl_jax.run import study  # takes seconds to import

    if values["config"]:
        raise UserError("expected --config for a run or --study, not both")
    folder = Path(values["workdir"])
    runs = study.read(values["study"], overrides)
    if any(run.starts_from_another for run in runs):
        raise UserError(
            f"--study={values['study']}: its runs start from each other, and a job starts all at "
            "once; train them in order with `ssl-jax study`"
        )
    return [run.words(folder, **data) for run in runs]


def _items(text: str) -> list[str]:
    """Split a list of WORKDIR or WORKDIR@STEP; an existing folder counts as one item."""
    return [text] if Path(text).is_dir() else text.split(",")


def _evaluation(item: str, protocols: str, suite: str, sweeps: Sequence[str]) -> tuple[str, ...]:
    workdir, at, step = item.rpartition("@")
    if not at or "/" in step or Path(item).is_dir():  # the @ belongs to the folder's name
        workdir, step = item, ""
    elif not step.isdecimal() and step != "all":
        raise UserError(f"--evaluate={item}: expected WORKDIR or WORKDIR@STEP, a number or all")
    words = [f"--workdir={workdir}"]
    words += [f"--step={step}"] if step else []
    words += [f"--eval={protocols}"] if protocols else []
    words += [f"--suite={suite}"] if suite else []
    words += [f"--sweep={sweep}" for sweep in sweeps]
    return ("ssl-jax", "evaluate", *words)


def submit(job: Job, file: str, text: str, command: Sequence[str]) -> int:
    """Write `text` to `file` and run `command` on it, or print both.

    Raises:
      UserError: the command's program is not installed.
    """
    if job.dry_run:
        print(f"{text.rstrip()}\n\n# written to {file}, then run:\n# {shlex.join(command)}")
        return 0
    need(command[0])
    Path(file).write_text(text)
    return subprocess.run(command, check=False).returncode


def need(program: str) -> None:
    """Raise `UserError` if `program` is not installed."""
    if not shutil.which(program):
        raise UserError(f"{program} is not installed; --dry_run shows what would be run")


def script(*lines: str) -> str:
    """Make a bash script of the lines."""
    return "\n".join(["#!/usr/bin/env bash", *lines]) + "\n"


def to_yaml(tree: Mapping[str, Any]) -> str:
    """Dump YAML with multi-line texts as blocks, so scripts stay readable."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=10_000)


class _Dumper(yaml.SafeDumper):
    """YAML dumper without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def main(run: Callable[[Sequence[str]], int]) -> None:
    """Run a launcher and exit; errors that the user can fix give one line and exit code 2."""
    try:
        sys.exit(run(sys.argv))
    except UserError as e:
        print(f"{Path(sys.argv[0]).name}: {e}", file=sys.stderr)
        sys.exit(2)
    except OSError as e:
        if (report := of_system(e)) is None:
            raise
        message, code = report
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        sys.exit(code)
