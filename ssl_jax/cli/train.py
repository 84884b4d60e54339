"""`ssl-jax train`: train any method on any images; run it again to go on where it stopped.

ssl-jax train --config=simclr:digits --workdir=W
ssl-jax train --config=simclr:imagenet --workdir=W --data=folder:/images --config.optim.lr=0.2
"""

import contextlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ssl_jax.cli import auto, pretrained, restart
from ssl_jax.cli import flags as command_line
from ssl_jax.cli.experiment import Experiment, configured, override
from ssl_jax.cli.table import final_table, terminal
from ssl_jax.core import distributed, tree
from ssl_jax.core.errors import UserError
from ssl_jax.evals.collapse import diagnose
from ssl_jax.evals.suite import Quality
from ssl_jax.train import flops, loop, state, workdir
from ssl_jax.train.checkpoint import Checkpoints
from ssl_jax.train.metrics import MetricsWriter
from ssl_jax.train.profile import Profile
from ssl_jax.train.progress import ProgressLine
from ssl_jax.train.refresh import make_refresh
from ssl_jax.train.step import make_train_step

FLAGS = {
    "config": "METHOD:RECIPE (simclr:digits) or PATH.py:RECIPE",
    "workdir": "folder of the run: config, metrics, checkpoints",
    "data": "training images: digits, folder:DIR, npz:FILE, ... (docs/data.md); else the config's",
    "eval_data": "evaluation images, written like --data",
    "profile": "FIRST:LAST: trace these steps for XProf, --profile=100:105, into WORKDIR/profile",
    "restarts": "go on by itself after a crash, so often without a newer checkpoint; by default 0",
    "config.SECTION.KEY": "any key of the config, --config.optim.lr=0.3",
    **distributed.FLAGS,
}


def main(argv: list[str]) -> int:
    flags, overrides = command_line.parse(argv, __doc__, FLAGS, configurable=True)
    folder = Path(command_line.require(flags, "workdir", "name a folder for the run, --workdir=W"))
    restarts = command_line.whole("restarts", flags.restarts)
    if restarts is not None and restart.CHILD not in os.environ:
        return restart.until_done(argv, folder, restarts)
    with distributed.session(flags.flag_values_dict()):
        start(flags, overrides, folder)
    return 0


def start(flags: Any, overrides: Sequence[command_line.Override], folder: Path) -> None:
    """Resolve the run, check it, train it, and show what was learned."""
    profile = Profile(flags.profile, folder / "profile", distributed.primary())
    console, chosen = terminal(), False
    if flags.config:
        config = configured(flags.config, overrides, flags.data, flags.eval_data)
    elif (folder / "config.json").exists():
        config = workdir.read_config(folder)
        given = {"data.train": flags.data, "data.eval": flags.eval_data}
        override(config, [(key, value) for key, value in given.items() if value])
        override(config, overrides)
    elif flags.data:
        chosen = True
        config, reasons = auto.choose(flags.data)
        console.print("no --config: chosen for these images and this machine")
        console.print("\n".join(f"  {reason}" for reason in reasons))
        override(config, [("data.eval", flags.eval_data)] if flags.eval_data else [])
        override(config, overrides)
    else:
        raise UserError(
            "--config is missing: name a method and recipe, --config=simclr:digits, or only your "
            "images, --data=folder:/path"
        )
    config.pop("spec", None)  # it follows from the rest
    experiment = Experiment.from_config(config, folder)
    # All that a user can get wrong is checked before a file is written.
    resolved = experiment.resolved()
    if not (folder / "config.json").exists():
        pretrained.check(experiment)
    announce(console, experiment)
    if chosen:
        console.print(auto.estimate(experiment))
    with workdir.opened(folder, resolved, experiment.defaults()):
        if distributed.primary():
            experiment.keep_tokenizer(folder)
        last = train(experiment, resolved, folder, console, profile)
    probe = experiment.objective.probe
    before = "at the start" if experiment.train.init_from else "untrained"
    final_table(console, last, f"stage {probe.stage}, pooling {probe.pool}", before)
    files = "config.json, metrics.jsonl, summary.json, checkpoints, events"
    console.print(f"written to {folder}/: {files}")
    console.print(f"next: ssl-jax report --workdir={folder} (one page to look at)")
    console.print(f"next: ssl-jax evaluate --workdir={folder}")


def announce(console: Console, experiment: Experiment) -> None:
    """What will run, before it does."""
    spec, mesh = experiment.spec, experiment.mesh
    shape = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    params = tree.count(experiment.abstract_state.params)
    console.print(
        f"[bold]{experiment.raw['objective']['name']}[/]: {params:,} parameters on {mesh.size} "
        f"{mesh.devices.flat[0].device_kind} device(s), mesh {shape}\n"
        f"{experiment.data.train}: {spec.num_examples:,} images, {spec.total_steps:,} steps of "
        f"{spec.global_batch} ({spec.steps_per_epoch:,} steps an epoch)",
    )
    if experiment.train.online_probe is not None and not experiment.probed:
        console.print("train.online_probe: these images have no labels, so none is trained along")


def train(
    experiment: Experiment,
    resolved: Mapping[str, Any],
    folder: Path,
    console: Console,
    profile: Profile,
) -> dict[str, float]:
    """Train in `folder` from its newest checkpoint, or from scratch, to the end.

    Returns:
      The last value of every metric, in the process that writes them.
    """
    config, spec, mesh = experiment.train, experiment.spec, experiment.mesh
    objective, evals = experiment.objective, experiment.evals
    total, every = spec.total_steps, experiment.checkpoint.every
    stop = min(config.stop_at or total, total)
    checkpoints = Checkpoints(folder / "checkpoints", experiment.checkpoint.keep)
    with checkpoints, jax.set_mesh(mesh):
        start = checkpoints.latest or 0
        if start:
            current = checkpoints.restore(start, experiment.abstract_state, experiment.placed)
            console.print(f"going on from the checkpoint of step {start}")
        else:
            backbone = pretrained.load(experiment, console)
            current = state.create(
                objective, experiment.tx, config.seed, experiment.placed, backbone
            )
        sets = experiment.evals_source, experiment.eval_source
        quality = Quality(objective, evals, *sets, mesh, tokenizer=experiment.tokenizer)

        def evaluate(now: state.TrainState, step: int) -> dict[str, float]:
            encoder = objective.encoder(now.params, now.extra)
            if step == 0:
                return quality.baselines(encoder)
            return alarmed(console, step, quality.measure(encoder), writer.last if writer else {})

        def evaluate_at(step: int) -> bool:
            due = step in (0, total) or (evals.every > 0 and step % evals.every == 0)
            return evals.every >= 0 and due

        def save(now: state.TrainState, step: int) -> None:
            checkpoints.save(step, now, _metadata(experiment, resolved))

        def save_at(step: int) -> bool:
            return step == stop or (every > 0 and step > 0 and step % every == 0)

        def at(what: str, step: int) -> None:
            distributed.at(what, step)
            profile.at(what, step)

        def log(step: int, values: Mapping[str, float]) -> None:
            if "train/loss" in values:
                values = {**values, "perf/bad_images": host.bad}
                progress.update(step, values)
            if writer:
                writer.write(step, values)

        step_fn = make_train_step(
            objective, experiment.tx, experiment.schedule, mesh, experiment.placed
        )
        refresh_steps = objective.refresh_steps()
        refresh = make_refresh(objective, experiment.tx, mesh, experiment.placed)
        hooks = loop.Hooks(
            evaluate,
            evaluate_at,
            save,
            save_at,
            log,
            refresh=lambda now: refresh(now, experiment.examples),
            refresh_at=lambda step: step in refresh_steps,
            at=at,
        )
        host, batches = experiment.training_batches(start, stop)
        first = distributed.primary()
        written = MetricsWriter(folder, start) if first else contextlib.nullcontext()
        progress = ProgressLine(console, start, stop)
        with written as writer, progress, contextlib.closing(profile):
            loop.run(
                current,
                step_fn,
                batches,
                hooks,
                start=start,
                stop=stop,
                batch_size=spec.global_batch,
                log_every=config.log_every,
                mfu=_mfu(experiment, step_fn),
            )
    return writer.last if writer else {}


def alarmed(
    console: Console, step: int, found: Mapping[str, float], last: Mapping[str, float]
) -> dict[str, float]:
    """What was `found` at a step, with `diag/collapse` where there are diagnostics; of a collapse
    that is new since `last`, all metrics before, the terminal tells.
    """
    numbers, before = (
        {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
        for values, prefix in ((found, "diag/"), (last, "untrained/diag/"))
    )
    if not numbers:
        return dict(found)
    finding = diagnose(numbers, before)
    if finding.kind and finding.kind != last.get("diag/collapse"):
        console.print(f"[bold red]step {step}: {finding}[/]")
    return {**found, "diag/collapse": float(finding.kind)}


def _metadata(experiment: Experiment, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    packages = ("ssl-jax", "jax", "flax", "optax", "orbax-checkpoint")
    return {
        "method": resolved["objective"]["name"],
        "config": resolved,
        "data": experiment.source.fingerprint(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _mfu(experiment: Experiment, step_fn: Any) -> Callable[[Any, float], Mapping[str, float]]:
    """(batch, steps a second) -> model FLOPs utilisation, where the chip's peak is known."""
    mesh = experiment.mesh
    peak = flops.peak(mesh.devices.flat[0].device_kind)
    work: list[int] = []

    def mfu(batch: Any, pace: float) -> Mapping[str, float]:
        if peak is None:
            return {}
        if not work:  # one more trace of the step, once
            work.append(flops.count(step_fn, experiment.abstract_state, batch))
        return {"perf/mfu": work[0] * pace / (peak * mesh.size)}

    return mfu
