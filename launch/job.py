"""Flags, commands and helpers shared by all launchers."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError, of_system
from ssl_jax.core.ranges import Count, Matching, Whole
from ssl_jax.run import flags as command_line

Commands = tuple[tuple[str, ...], ...]
# A DNS label, as Kubernetes requires; it appends about 20 characters for the names of pods.
Name = Annotated[
    str,
    Matching(
        "[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
        "at most 40 lower-case letters, digits and hyphens, a letter first, such as "
        "simclr-imagenet",
    ),
]
# A word of a script or of another program's command, which needs no quotes in a shell.
Word = Annotated[
    str, Matching(r"[A-Za-z0-9_./][A-Za-z0-9_.,:@/+=-]*", "letters, digits and any of _.,:@/+=-")
]


@dataclass(frozen=True, kw_only=True)
class JobFlags(command_line.ConfigFlags):
    """Flags of every launcher."""

    config: str = flag("config of the run, METHOD:RECIPE or PATH.py:RECIPE", "")
    data: str = flag("training images, as for `ssl-jax train`", "")
    eval_data: str = flag("evaluation images", "")
    workdir: str = flag("folder of the run, on a file system that all hosts share", "")
    study: str = flag(
        "study whose runs take one host each: FILE.py:NAME or studies:NAME, with --workdir", ""
    )
    evolve: bool = flag(
        "train the members that `ssl-jax evolve --ask` wrote into --workdir, one host each", False
    )
    restarts: Whole = flag("maximum number of restarts in a row without a newer checkpoint", 5)
    evaluate: str = flag(
        "a sweep instead of a run: WORKDIR or WORKDIR@STEP, several separated by commas", ""
    )
    eval: str = flag("protocols of the sweep, knn,fewshot; by default those of each run", "")
    sweep: tuple[str, ...] = flag(
        "settings of the protocols to vary, as for `ssl-jax evaluate`; may be repeated",
        (),
        repeated=True,
    )
    suite: str = flag("data sets of the sweep, as for `ssl-jax evaluate`", "")
    num_hosts: Count | None = flag(
        "number of machines, or of processes for launch.local; by default 1", None
    )
    name: Name = flag("name of the job, lower-case letters, digits and hyphens", "ssl-jax")
    dry_run: bool = flag("only print what would be written and run", False)


F = TypeVar("F", bound=JobFlags)


@dataclass(frozen=True)
class Job:
    """A run, or a sweep of evaluations or of the runs of a study.

    Attributes:
      name: name of the job.
      commands: argument lists of `ssl-jax`; one for a run, several for a sweep.
      sweep: the commands are independent, each on one host.
      num_hosts: number of hosts of a run.
      dry_run: print only.
    """

    name: str
    commands: Commands
    sweep: bool
    num_hosts: int
    dry_run: bool

    def shell(self, index: str) -> str:
        """Render bash for the command, or for the one that the variable `index` selects."""
        lines = [shlex.join(command) for command in self.commands]
        if not self.sweep:
            return lines[0]
        cases = "\n".join(f"  {i}) {line} ;;" for i, line in enumerate(lines))
        return f'case "${{{index}}}" in\n{cases}\nesac'


def parse(argv: Sequence[str], doc: str | None, cls: type[F]) -> tuple[Job, F]:
    """Parse the command line of `python -m launch.X`; return its job and its flags.

    Raises:
      UserError: an unknown flag or a wrong value, or neither a run nor a sweep.
    """
    flags = command_line.parse(argv, doc, cls, here=False)
    if bool(flags.workdir) == bool(flags.evaluate):
        raise UserError("expected --workdir=W for a run or --evaluate=W1,W2@STEP,... for a sweep")
    if flags.evaluate:
        commands = tuple(_evaluation(item, flags) for item in _items(flags.evaluate))
    else:
        commands = tuple(
            ("ssl-jax", "train", *words, f"--restarts={flags.restarts}") for words in _runs(flags)
        )
    if flags.trust_code:
        commands = tuple((*command, "--trust_code") for command in commands)
    sweep = bool(flags.evaluate or flags.study or flags.evolve)
    return Job(flags.name, commands, sweep, flags.num_hosts or 1, flags.dry_run), flags


def _runs(flags: JobFlags) -> Iterable[Sequence[str]]:
    """List the arguments of `ssl-jax train` for a run, or for each of a study or a generation."""
    data = {"data": flags.data, "eval_data": flags.eval_data}
    if flags.evolve:
        from ssl_jax.run import evolution  # takes seconds to import

        if flags.config or flags.study or flags.overrides:
            raise UserError("--evolve: the search in --workdir has the config; give no other")
        return evolution.pending(Path(flags.workdir))
    if not flags.study:
        arguments = {"config": flags.config, **data, "workdir": flags.workdir}
        words = [f"--{name}={value}" for name, value in arguments.items() if value]
        return [[*words, *(f"--config.{key}={value}" for key, value in flags.overrides)]]
    from ssl_jax.run import study  # takes seconds to import

    if flags.config:
        raise UserError("expected --config for a run or --study, not both")
    folder = Path(flags.workdir)
    runs = study.read(flags.study, flags.overrides)
    if any(run.starts_from_another for run in runs):
        raise UserError(
            f"--study={flags.study}: its runs start from each other, and a job starts all at "
            "once; train them in order with `ssl-jax study`"
        )
    return [run.words(folder, **data) for run in runs]


def _items(text: str) -> list[str]:
    """Split a list of WORKDIR or WORKDIR@STEP; an existing folder counts as one item."""
    return [text] if Path(text).is_dir() else text.split(",")


def _evaluation(item: str, flags: JobFlags) -> tuple[str, ...]:
    workdir, at, step = item.rpartition("@")
    if not at or "/" in step or Path(item).is_dir():  # the @ belongs to the folder's name
        workdir, step = item, ""
    elif not step.isdecimal() and step != "all":
        raise UserError(f"--evaluate={item}: expected WORKDIR or WORKDIR@STEP, a number or all")
    words = [f"--workdir={workdir}"]
    words += [f"--step={step}"] if step else []
    words += [f"--eval={flags.eval}"] if flags.eval else []
    words += [f"--suite={flags.suite}"] if flags.suite else []
    words += [f"--sweep={sweep}" for sweep in flags.sweep]
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
