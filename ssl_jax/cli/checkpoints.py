"""`ssl-jax checkpoints`: list the checkpoints of a run, verify every byte of them, prune them.

ssl-jax checkpoints --workdir=W
ssl-jax checkpoints --workdir=W --verify
ssl-jax checkpoints --workdir=W --prune --keep=1 --best=eval/knn_top1

The exit code is 1 if --verify finds a damaged checkpoint.
"""

import dataclasses
import datetime
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.run import flags as command_line
from ssl_jax.run.console import styled, terminal
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import manifest, workdir
from ssl_jax.training.checkpoint import DAMAGED, REMOVED, CheckpointConfig, Checkpoints


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    workdir: Path = flag("folder of the run")
    verify: bool = flag("read every file and compare it with its digest", False)
    prune: bool = flag("remove checkpoints that are not to be kept, damaged or unfinished", False)
    keep: Count | None = flag(
        "with --prune: newest checkpoints to keep; by default the config's", None
    )
    keep_every: Whole | None = flag(
        "with --prune: also keep checkpoints of steps divisible by this", None
    )
    best: str = flag(
        "with --prune: also keep the checkpoint with the highest value of this metric, the lowest "
        "with a '-'; none for no such checkpoint",
        "",
    )


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    folder = flags.workdir
    config = workdir.read_config(folder)
    policy = Experiment.from_config(config, folder).checkpoint
    if any(map(flags.is_set, ("keep", "keep_every", "best"))) and not flags.prune:
        raise UserError("--keep, --keep_every and --best require --prune")
    policy = dataclasses.replace(
        policy,
        keep=policy.keep if flags.keep is None else flags.keep,
        keep_every=policy.keep_every if flags.keep_every is None else flags.keep_every,
        best="" if flags.best == "none" else flags.best or policy.best,
    )
    console = terminal()
    if flags.prune:
        with workdir.locked(folder), Checkpoints(folder / "checkpoints", policy) as checkpoints:
            checkpoints.check_best()
            checkpoints.set_damaged_aside()  # else one might be kept instead of a whole one
            removed = checkpoints.prune(damaged=True)
        console.print(f"removed: {', '.join(removed) or 'nothing'}")
    return show(console, folder / "checkpoints", policy, flags.verify)


def show(console: Console, folder: Path, config: CheckpointConfig, verify: bool) -> int:
    """Print the table of checkpoints; return 1 if one was verified and is damaged, else 0."""
    damaged = 0
    with Checkpoints(folder, config, reader=True) as checkpoints:
        complete, stay = checkpoints.steps, checkpoints.stay()
    table = Table("step", "saved", "MB", "stays", "state", title=str(folder), title_justify="left")
    if config.best:
        table.add_column(config.best.removeprefix("-"))
    for step in complete:
        metadata, bad = manifest.read(folder / str(step)), ""
        if verify or not metadata:
            bad = manifest.damage(folder / str(step))
            damaged += bool(bad)
        saved = datetime.datetime.fromtimestamp(metadata.get("time", 0)).isoformat(" ", "seconds")
        value = metadata.get("metrics", {}).get(config.best.removeprefix("-"))
        table.add_row(
            str(step),
            saved if metadata else "",
            f"{manifest.size(metadata) / 1e6:,.1f}",
            "yes" if step in stay else "no",
            styled((f"damaged: {bad}", "red")) if bad else ("whole" if verify else "not verified"),
            *([] if not config.best else ["" if value is None else f"{value:.4f}"]),
        )
    others = [p.name for p in sorted(folder.glob("*")) if p.name not in map(str, complete)]
    console.print(table if complete else f"{folder}: no complete checkpoint", soft_wrap=False)
    for name in others:
        why = "being written, or unfinished"
        why = "set aside as damaged" if name.endswith(DAMAGED) else why
        why = "not completely removed" if name.endswith(REMOVED) else why
        console.print(f"  {name}: {why}")
    return 1 if damaged else 0
