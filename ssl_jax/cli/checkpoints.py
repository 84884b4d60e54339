"""`ssl-jax checkpoints`: list the checkpoints of a run, verify every byte of them, prune them.

ssl-jax checkpoints --workdir=W
ssl-jax checkpoints --workdir=W --verify
ssl-jax checkpoints --workdir=W --prune --keep=1 --best=eval/knn_top1

Exit code 1 if --verify finds a damaged one.
"""

import dataclasses
import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ssl_jax.core.errors import UserError
from ssl_jax.run import flags as command_line
from ssl_jax.run.console import styled, terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.train import manifest, workdir
from ssl_jax.train.checkpoint import DAMAGED, REMOVED, CheckpointConfig, Checkpoints

FLAGS = {
    "workdir": "folder of the run",
    "verify": "read every file and compare it with its digest",
    "prune": "remove what is not to be kept, what is damaged, and what was never finished",
    "keep": "with --prune: how many of the newest stay; else as the run's config says",
    "keep_every": "with --prune: those of steps that this divides stay too",
    "best": "with --prune: the one with the highest of this metric stays too, lowest with a '-'; "
    "none for no such one",
}


def main(argv: list[str]) -> int:
    flags, _ = command_line.parse(argv, __doc__, FLAGS, switches=("verify", "prune"))
    folder = Path(command_line.require(flags, "workdir", "name the folder of a run, --workdir=W"))
    config = workdir.read_config(folder)
    kept = Experiment.from_config(config, folder).checkpoint
    if (flags.keep or flags.keep_every or flags.best) and not flags.prune:
        raise UserError("--keep, --keep_every and --best go with --prune")
    kept = dataclasses.replace(
        kept,
        keep=command_line.whole("keep", flags.keep, default=kept.keep, least=1),
        keep_every=command_line.whole("keep_every", flags.keep_every, default=kept.keep_every),
        best="" if flags.best == "none" else flags.best or kept.best,
    )
    console = terminal()
    if flags.prune:
        with workdir.locked(folder), Checkpoints(folder / "checkpoints", kept) as checkpoints:
            checkpoints.check_best()
            checkpoints.set_damaged_aside()  # or a damaged one might stay for a whole one
            gone = checkpoints.prune(damaged=True)
        console.print(f"removed: {', '.join(gone) or 'nothing'}")
    return show(console, folder / "checkpoints", kept, flags.verify)


def show(console: Console, folder: Path, config: CheckpointConfig, verify: bool) -> int:
    """The table; 1 if one was verified and found damaged."""
    damaged = 0
    with Checkpoints(folder, config, reader=True) as checkpoints:
        complete, stay = checkpoints.steps, checkpoints.stay()
    table = Table("step", "saved", "MB", "stays", "state", title=str(folder), title_justify="left")
    if config.best:
        table.add_column(config.best.removeprefix("-"))
    for step in complete:
        said, bad = manifest.read(folder / str(step)), ""
        if verify or not said:
            bad = manifest.damage(folder / str(step))
            damaged += bool(bad)
        saved = datetime.datetime.fromtimestamp(said.get("time", 0)).isoformat(" ", "seconds")
        value = said.get("metrics", {}).get(config.best.removeprefix("-"))
        table.add_row(
            str(step),
            saved if said else "",
            f"{manifest.size(said) / 1e6:,.1f}",
            "yes" if step in stay else "no",
            styled((f"damaged: {bad}", "red")) if bad else ("whole" if verify else "not verified"),
            *([] if not config.best else ["" if value is None else f"{value:.4f}"]),
        )
    others = [p.name for p in sorted(folder.glob("*")) if p.name not in map(str, complete)]
    console.print(table if complete else f"{folder}: no complete checkpoint", soft_wrap=False)
    for name in others:
        why = "being written, or never finished"
        why = "set aside as damaged" if name.endswith(DAMAGED) else why
        why = "not wholly removed" if name.endswith(REMOVED) else why
        console.print(f"  {name}: {why}")
    return 1 if damaged else 0
