"""`ssl-jax evaluate`: measure a checkpoint of a run with named protocols.

ssl-jax evaluate --workdir=W --eval=knn,fewshot,clustering
ssl-jax evaluate --workdir=W --step=1000
ssl-jax evaluate --workdir=W --eval=knn --data=folder:/train --eval_data=folder:/test
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from ssl_jax.cli import flags as command_line
from ssl_jax.cli.experiment import Experiment
from ssl_jax.cli.table import terminal
from ssl_jax.core import distributed
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.data.sources import open_source
from ssl_jax.evals.suite import PROTOCOLS, Quality
from ssl_jax.train import workdir
from ssl_jax.train.checkpoint import Checkpoints

FLAGS = {
    "workdir": "folder of the run to measure",
    "eval": f"protocols, some of {','.join(PROTOCOLS)}; by default all",
    "data": "labelled training images; by default the run's own",
    "eval_data": "evaluation images; by default the run's own",
    "step": "which checkpoint; by default the newest",
    **distributed.FLAGS,
}


def main(argv: list[str]) -> int:
    flags, _ = command_line.parse(argv, __doc__, FLAGS)
    folder = Path(command_line.require(flags, "workdir", "name the folder of a run, --workdir=W"))
    protocols = flags.eval.split(",") if flags.eval else list(PROTOCOLS)
    for name in protocols:
        if name not in PROTOCOLS:
            raise UserError(f"unknown evaluation {name!r}; {suggest(name, PROTOCOLS)}")
    step = command_line.whole("step", flags.step)
    with distributed.session(flags.flag_values_dict()):
        measure(flags, folder, protocols, step)
    return 0


def measure(flags: Any, folder: Path, protocols: list[str], step: int | None) -> None:
    """Measure the checkpoint of this step, or the latest, write what was found and show it."""
    experiment = Experiment.from_config(workdir.read_config(folder), folder)
    train, test = flags.data, flags.eval_data
    source = open_source(train, "train") if train else experiment.source
    eval_source = None if train else experiment.eval_source
    if test:
        eval_source = open_source(test, "eval")

    with Checkpoints(folder / "checkpoints") as checkpoints, jax.set_mesh(experiment.mesh):
        step = checkpoints.latest if step is None else step
        if step is None:
            raise UserError(f"{folder} holds no checkpoint yet")
        if step not in checkpoints.steps:
            known = ", ".join(map(str, checkpoints.steps)) or "none"
            raise UserError(f"{folder} holds no checkpoint of step {step}; there are: {known}")
        state = checkpoints.restore(step, experiment.abstract_state, experiment.placed)
        quality = Quality(
            experiment.objective,
            experiment.evals,
            source,
            eval_source,
            experiment.mesh,
            tokenizer=experiment.tokenizer,
        )
        if not quality.labelled:
            terminal().print("no labels: only the label-free numbers can be measured")
        encoder = experiment.objective.encoder(state.params, state.extra)
        found = quality.measure(encoder, protocols)

    protocol = dataclasses.asdict(experiment.evals) | {
        "step": step,
        "method": experiment.raw["objective"]["name"],
        "probe": dataclasses.asdict(experiment.objective.probe),
        "data": source.name,
        "eval_data": eval_source.name if eval_source else "every fifth example of data",
    }
    path = folder / "eval" / f"{'-'.join(protocols)}-{step}.json"
    if distributed.primary():
        path.parent.mkdir(exist_ok=True)
        workdir.write_json(path, {"results": found, "protocol": protocol})
    table = Table(title=f"{folder}, step {step}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in sorted(found.items()):
        table.add_row(name, f"{value:.4f}")
    terminal().print(table, soft_wrap=False)
    terminal().print(f"Written with its protocol to {path}")
