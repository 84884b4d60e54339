"""`ssl-jax train`: train any method on any images; run it again to go on where it stopped.

    ssl-jax train --config=simclr:digits --workdir=W
    ssl-jax train --config=simclr:imagenet --workdir=W --data=folder:/images --config.optim.lr=0.2
"""

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags
from rich.console import Console

from ssl_jax.cli import flags as command_line
from ssl_jax.cli.experiment import Experiment, load_config, override
from ssl_jax.cli.table import final_table
from ssl_jax.core import sharding, tree
from ssl_jax.data.pipeline import prefetch_to_device, train_batches
from ssl_jax.evals.suite import Quality
from ssl_jax.train import flops, loop, state, workdir
from ssl_jax.train.checkpoint import Checkpoints
from ssl_jax.train.metrics import MetricsWriter
from ssl_jax.train.progress import ProgressLine
from ssl_jax.train.step import make_train_step

flags.DEFINE_string("config", "", "METHOD:RECIPE (simclr:digits) or PATH.py:RECIPE.")
flags.DEFINE_string("workdir", "", "Folder of the run: config, metrics, checkpoints.")
flags.DEFINE_string("data", "", "Training images: digits, folder:PATH or npz:FILE.")
flags.DEFINE_string("eval_data", "", "Evaluation images, written like --data.")


def main(argv: list[str]) -> int:
    overrides = command_line.parse(argv, __doc__)
    spec = command_line.require("config", "name a method and recipe, --config=simclr:digits")
    folder = Path(command_line.require("workdir", "name a folder for the run, --workdir=W"))
    config = load_config(spec)
    for flag, key in (("data", "data.train"), ("eval_data", "data.eval")):
        if flags.FLAGS[flag].value:
            override(config, [(key, flags.FLAGS[flag].value)])
    override(config, overrides)
    experiment = Experiment.from_config(config)
    console = Console()
    resolved = experiment.resolved()  # everything a user can get wrong is checked before a file is written
    announce(console, experiment, resolved)
    with workdir.opened(folder, resolved):
        last = train(experiment, resolved, folder, console)
    probe = experiment.objective.probe
    final_table(console, last, f"stage {probe.stage}, {probe.pool} pooling")
    console.print(f"Written to {folder}: config.json, metrics.jsonl, summary.json, checkpoints/, events/")
    return 0


def announce(console: Console, experiment: Experiment, resolved: Mapping[str, Any]) -> None:
    """What will run, before it does."""
    spec, mesh = experiment.spec, experiment.mesh
    shape = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    params = tree.count(experiment.abstract_state.params)
    console.print(
        f"[bold]{resolved['objective']['name']}[/]  {params:,} parameters, "
        f"{mesh.size} {mesh.devices.flat[0].device_kind} device(s), mesh {shape}\n"
        f"{experiment.data.train}: {spec.num_examples:,} images; {spec.total_steps:,} steps of "
        f"{spec.global_batch} images ({spec.steps_per_epoch:,} steps an epoch)",
        highlight=False,
    )


def train(
    experiment: Experiment, resolved: Mapping[str, Any], folder: Path, console: Console
) -> dict[str, float]:
    """Train from the newest checkpoint in `folder`, or from scratch, to the end; returns the last metrics."""
    config, spec = experiment.train, experiment.spec
    total = spec.total_steps
    stop = min(config.stop_at or total, total)
    with Checkpoints(folder / "checkpoints", experiment.checkpoint.keep) as checkpoints, jax.set_mesh(
        experiment.mesh
    ):
        start = checkpoints.latest or 0
        if checkpoints.latest is None:
            current = state.create(experiment.objective, experiment.tx, config.seed, experiment.placed)
        else:
            current = checkpoints.restore(start, experiment.abstract_state, experiment.placed)
            console.print(f"going on from the checkpoint of step {start}", highlight=False)
        writer = MetricsWriter(folder, start)
        quality = Quality(experiment.objective, experiment.evals, experiment.source,
                          experiment.eval_source, experiment.mesh)
        every, saves = experiment.evals.every, experiment.checkpoint.every

        def evaluate(now: state.TrainState, step: int) -> dict[str, float]:
            if step == 0:
                return quality.baselines(now.params, now.extra)
            return quality.measure(experiment.objective.encoder(now.params, now.extra))

        def log(step: int, values: Mapping[str, float]) -> None:
            writer.write(step, values)
            if "train/loss" in values:
                progress.update(step, values)

        hooks = loop.Hooks(
            evaluate=evaluate,
            evaluate_at=lambda s: every >= 0 and (s in (0, total) or bool(every) and s % every == 0),
            save=lambda now, step: checkpoints.save(step, now, _metadata(experiment, resolved)),
            save_at=lambda s: s == stop or bool(saves) and s > 0 and s % saves == 0,
            log=log,
        )
        placed = sharding.batch_sharding(experiment.mesh)
        batches = train_batches(experiment.source, experiment.objective.inputs(), experiment.data,
                                global_batch=spec.global_batch, seed=config.seed,
                                start_step=start, stop_step=stop)
        step_fn = make_train_step(experiment.objective, experiment.tx, experiment.schedule,
                                  experiment.mesh, experiment.placed)
        try:
            with ProgressLine(console, start, stop) as progress:
                loop.run(
                    current, step_fn, prefetch_to_device(batches, placed), hooks,
                    start=start, stop=stop, batch_size=spec.global_batch,
                    log_every=config.log_every,
                    flops_per_second=_mfu(experiment, step_fn),
                )
        finally:
            writer.close()
    return writer.last


def _metadata(experiment: Experiment, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    packages = ("ssl-jax", "jax", "flax", "optax", "orbax-checkpoint")
    return {
        "method": resolved["objective"]["name"],
        "config": resolved,
        "data": experiment.source.fingerprint(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _mfu(experiment: Experiment, step_fn: Any, batch: Any) -> Callable[[float], dict[str, float]]:
    """steps a second -> model FLOPs utilisation, where the chip's peak is known."""
    mesh = experiment.mesh
    peak = flops.peak(mesh.devices.flat[0].device_kind)
    if peak is None:
        return lambda pace: {}
    work = flops.count(step_fn, experiment.abstract_state, batch)
    return lambda pace: {"perf/mfu": work * pace / (peak * mesh.size)}
