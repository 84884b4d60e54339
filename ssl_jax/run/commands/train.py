"""Start or resume a run: resolve its config, check it, train, and show what it learned."""

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ssl_jax.core import distributed, tree
from ssl_jax.core.config import flag
from ssl_jax.core.errors import AtOnce, UserError
from ssl_jax.core.ranges import Whole
from ssl_jax.core.stop import Interrupted, Stop
from ssl_jax.data.sources import Source, held_out, left_out, left_out_is_shown
from ssl_jax.run import auto, dry_run, loggers, pretrained, restart
from ssl_jax.run import flags as command_line
from ssl_jax.run.configs import configured, override
from ssl_jax.run.console import final_table, styled, terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.trainer import UNTOUCHED, Training
from ssl_jax.training import paths, workdir
from ssl_jax.training.profile import Profile
from ssl_jax.training.progress import ProgressLine

CLASSES_SHOWN = 5  # class names printed at the start


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.ConfigFlags, distributed.ProcessFlags):
    config: str = flag("METHOD:RECIPE (simclr:digits) or PATH.py:RECIPE", "")
    workdir: Path = flag("folder of the run: config, metrics, checkpoints")
    data: str = flag(
        "training images: digits, folder:DIR, npz:FILE, ... (docs/data.md); else the config's", ""
    )
    eval_data: str = flag("evaluation images, written like --data", "")
    profile: str = flag(
        "FIRST:LAST: trace these steps for XProf, --profile=100:105, into WORKDIR/profile", ""
    )
    log: tuple[str, ...] = flag(
        f"where metrics are shown, any of {','.join(loggers.known())}, or none (docs/logging.md)",
        ("tensorboard",),
    )
    accept_changes: bool = flag("resume a run although its config or data have changed", False)
    dry_run: bool = flag(
        "only check and show the run: sizes, memory, time, a picture of its first images", False
    )
    restarts: Whole | None = flag(
        "maximum number of restarts in a row without a newer checkpoint; by default 0", None
    )


def train(flags: Flags, log: Sequence[loggers.Target] = ()) -> tuple[int, dict[str, float]]:
    """Resolve, check and train the run, and show what it learned.

    Args:
      log: further loggers than those that the flags name.

    Returns:
      The exit code, 0 at the end of the run, and the last value of every metric.

    Raises:
      UserError: an error that the user must fix.
    """
    flags.refuse_both(("dry_run", "profile"))
    loggers.check(flags.log)
    folder = flags.workdir
    profile = Profile(flags.profile, folder / "profile", distributed.primary())
    with Stop() as stop, ProgressLine(terminal()) as line:
        try:
            with stop.region(UNTOUCHED), left_out_is_shown():
                line.phase("reading the data")
                experiment = resolve(flags, line.console)
                resolved = experiment.resolved()
                if not workdir.started(folder):
                    pretrained.check(experiment)
                    experiment.check_used([key for key, _ in flags.overrides])
                announce(line.console, experiment)
            accept = flags.accept_changes
            check = functools.partial(check_end, experiment, folder)
            if flags.dry_run:
                with stop.region(UNTOUCHED):
                    if workdir.started(folder):
                        old, defaults = workdir.read_config(folder), experiment.defaults()
                        workdir.check_resumable(old, resolved, folder, defaults, accept)
                    check()
                    line.stop()
                    dry_run.show(experiment, folder, line.console)
                return 0, {}
            with workdir.opened(folder, resolved, experiment.defaults(), accept, check):
                if distributed.primary():
                    experiment.keep_tokenizer(folder)
                with stop.region(UNTOUCHED):
                    training = Training(
                        *(experiment, resolved, folder, line, stop, profile, accept),
                        log=(*flags.log, *log),
                    )
                if code := training.run():
                    return code, training.last
        except Interrupted:
            line.stop()
            return AtOnce(stop.code), {}
    show(training, experiment, folder, line.console)
    return 0, training.last


def resolve(flags: Flags, console: Console) -> Experiment:
    """Resolve and check the run that the command line starts or resumes; no file is written."""
    folder, overrides = flags.workdir, flags.overrides
    reasons: dict[str, str] = {}
    if flags.config:
        config = configured(flags.config, overrides, flags.data, flags.eval_data)
    elif (folder / "config.json").exists():
        config = workdir.read_config(folder)
        data = {"data.train": flags.data, "data.eval": flags.eval_data}
        override(config, [(key, value) for key, value in data.items() if value])
        override(config, overrides)
    elif flags.data:
        config, reasons = auto.choose(flags.data, *auto.requested(overrides))
        override(config, [("data.eval", flags.eval_data)] if flags.eval_data else [])
        override(config, overrides)
    else:
        raise UserError(
            "--config is missing: name a method and recipe, --config=simclr:digits, or only your "
            "images, --data=folder:/path"
        )
    config.pop("spec", None)  # it follows from the rest
    config = paths.anchored(config)
    if workdir.started(folder):
        config = with_original_data(config, workdir.read_config(folder), console)
    experiment = Experiment.from_config(config, folder)
    experiment.check_batch()
    if reasons:
        console.print("no --config: chosen for these images and this machine")
        keys = [key for key, _ in overrides]
        for key, reason in reasons.items():
            if not any(f"{changed}.".startswith(f"{key}.") for changed in keys):
                console.print(f"  {reason}", markup=False)
    return experiment


def show(training: Training, experiment: Experiment, folder: Path, console: Console) -> None:
    """Print what a finished run learned, and what to do next."""
    total, stop_at = experiment.spec.total_steps, experiment.train.stop_at
    if training.finished and 0 < stop_at < total:
        console.print(f"nothing to do: the run is at step {stop_at:,}, where train.stop_at ends it")
    elif training.finished:
        console.print(f"already finished: all {total:,} steps are done")
    probe = experiment.objective.probe
    before = "at the start" if experiment.train.init_from else "untrained"
    final_table(console, training.last, f"stage {probe.stage}, pooling {probe.pool}", before)
    events = ", events" if (folder / "events").exists() else ""
    files = f"config.json, metrics.jsonl, summary.json, checkpoints{events}"
    console.print(f"written to {folder}/: {files}")
    flag = shlex.quote(f"--workdir={folder}")  # to be copied into a shell
    console.print(f"next: ssl-jax report {flag} (one page to look at)")
    console.print(f"next: ssl-jax evaluate {flag}")


def check_end(experiment: Experiment, folder: Path) -> None:
    """Check that a run does not end before the step that it has reached.

    Raises:
      UserError: it does.
    """
    total, stop = experiment.spec.total_steps, experiment.train.stop_at
    done, end = restart.newest(folder), min(stop or total, total)
    if done > end:
        key = "train.stop_at" if stop and stop < total else "train.steps (or epochs)"
        raise UserError(
            f"{key}: the run ends at step {end}, but {folder} is already at step {done}; set a "
            "larger number, or another --workdir"
        )


def with_original_data(
    config: dict[str, Any], before: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Return the config of a run that resumes. A run of an older version, which also trained on
    held-out folders (`val/`), keeps the whole folder, "#.".
    """
    data = config.get("data", {})
    train, old = data.get("train"), before.get("data", {}).get("train")
    if not train or "#" in train or not paths.same("data.train", old, train):
        return config
    whole = {**config, "data": {**data, "train": f"{train}#."}}
    if old.endswith("#."):
        return whole
    original = before.get("spec", {}).get("num_examples")
    if held_out(train) is None or Experiment.from_config(config).facts.examples == original:
        return config
    if Experiment.from_config(whole).facts.examples != original:
        return config
    console.print("this run started with held-out folders among its training data, and keeps them")
    return whole


def announce(console: Console, experiment: Experiment) -> None:
    """Print what will run: method, size, devices and data."""
    spec, mesh = experiment.spec, experiment.mesh
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    params = tree.count(experiment.abstract_state.params)
    console.print(
        styled(
            (experiment.raw["objective"]["name"], "bold"),
            f": {params:,} parameters on {mesh.size} {mesh.devices.flat[0].device_kind} device(s), "
            f"mesh {shape}",
        )
    )
    console.print(
        f"{experiment.data.train}: {_images(spec.num_examples)}, {spec.total_steps:,} steps of "
        f"{spec.global_batch} ({spec.steps_per_epoch:,} steps per epoch)",
    )
    for line in (*data_lines(experiment), *experiment.survey.lines):
        console.print(line)
    if experiment.train.online_probe is not None and not experiment.probed:
        console.print("train.online_probe: these images have no labels, so no probe is trained")


def data_lines(experiment: Experiment) -> list[str]:
    """Describe the data: classes, unused files and labels, and the evaluation set."""
    source, evals = experiment.source, experiment.evals
    lines = [f"  {classes(source, count=evals.every >= 0)}"]
    lines += [f"  left out: {_printable(line)}" for line in left_out(source)]
    for name, stream in experiment.streams.items():
        lines.append(f"  stream {name}: {_images(len(stream))} of {_printable(stream.name)}")
        lines += [f"  left out of stream {name}: {_printable(line)}" for line in left_out(stream)]
    if evals.every < 0:
        return [*lines, "  evaluated on: nothing during training (evals.every=-1)"]
    test = experiment.eval_source
    if test is None:
        return [
            *lines,
            "  evaluated on: a fifth of the training images; set others with --eval_data",
        ]
    size = f"{_images(len(test))}, {classes(test, count=True)}"
    lines.append(f"  evaluated on: {_printable(test.name)}: {size}")
    unused = left_out(test) if experiment.data.eval else []
    return [*lines, *(f"  left out of these: {_printable(line)}" for line in unused)]


def classes(source: Source, count: bool) -> str:
    """Describe the classes: number and first names; with `count` also the unlabelled examples."""
    names = source.class_names
    if not names:
        return number_of_classes(0)
    listed = ", ".join(map(_printable, names[:CLASSES_SHOWN]))
    listed += ", ..." if len(names) > CLASSES_SHOWN else ""
    line = f"{number_of_classes(len(names))} ({listed})"
    if count and source.labels is not None and (missing := int((source.labels < 0).sum())):
        line += f", {_images(missing)} without a label"
    return line


def number_of_classes(count: int) -> str:
    """Describe data with this number of classes; 0 is that of data without labels."""
    return {0: "no labels", 1: "1 class"}.get(count, f"{count:,} classes")


def _images(count: int) -> str:
    return f"{count:,} image{'s'[: count != 1]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
