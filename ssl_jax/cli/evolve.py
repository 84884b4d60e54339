"""`ssl-jax evolve`: find numbers of a config, such as loss weights, by evolution.

ssl-jax evolve --config=evolving_losses:moving_digits --workdir=S --config.evals.protocols=zipf
ssl-jax evolve --config=evolving_losses:moving_digits --workdir=R --algorithm=random
ssl-jax evolve --config=METHOD:RECIPE --workdir=S --ask    # then: python -m launch.slurm --evolve

Each member of a generation is a run in its own folder, S/g00-m00 and so on; its fitness is a number
that its last evaluation measured. Run again, the command skips finished members and resumes an
unfinished one; the members are the same. S/best.json has the best numbers.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from ssl_jax import cli
from ssl_jax.cli.results import Row, TableFlags, ordered, rendered, show
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.core.watch import INTERRUPTED, PREEMPTED
from ssl_jax.run import flags as command_line
from ssl_jax.run.evolution import SearchPlan, Settings, last_metrics
from ssl_jax.run.study import finished

ENTROPY = "diag/zipf_entropy"  # shown beside the fitness: collapsed features have a moderate one


@dataclass(frozen=True, kw_only=True)
class Flags(Settings, TableFlags, command_line.ConfigFlags):
    config: str = flag("config of all members, METHOD:RECIPE or PATH.py:RECIPE")
    workdir: Path = flag("folder of the search; each member has a folder in it")
    data: str = flag("training data of all members", "")
    eval_data: str = flag("evaluation data of all members", "")
    genes: str = flag(
        "key of the config with the numbers, which are in [0, 1]", "objective.weights"
    )
    fitness: str = flag("number of the last evaluation that is minimised", "diag/zipf_kl")
    maximize: bool = flag("maximise it instead, as for eval/knn_top1", False)
    ask: bool = flag("only ask for the next generation, which a launcher then trains", False)


def main(argv: list[str]) -> int:
    flags = command_line.parse(argv, __doc__, Flags)
    settings = Settings(**{f.name: getattr(flags, f.name) for f in fields(Settings)})
    plan = SearchPlan.of(
        flags.config,
        flags.overrides,
        flags.genes,
        fitness=flags.fitness,
        maximize=flags.maximize,
        data=flags.data,
        eval_data=flags.eval_data,
        settings=settings,
    )
    folder = flags.workdir
    plan.begin(folder)
    while (step := plan.next(folder))[0]:
        pending = [run for run in step[0] if not finished(folder / run.name)]
        if flags.ask:
            print(f"{len(pending)} members to train: {', '.join(run.name for run in pending)}")
            print(f"python -m launch.slurm --evolve --workdir={folder}")
            return 0
        for run in pending:
            print(f"{run.name} of {settings.generations} generations", file=sys.stderr, flush=True)
            code = cli.run(["train", *run.words(folder, flags.data, flags.eval_data)])
            if code in (INTERRUPTED, PREEMPTED):
                return code
            if code:
                raise UserError(f"{run.name} was not trained, for the reason above")
    rows = table(plan, folder)
    best = min(rows, key=lambda row: row[plan.fitness] * (-1 if plan.maximize else 1))
    write_json(folder / "best.json", {name: best[name] for name in plan.names})
    show(rendered(ordered(rows, flags.sort), list(rows[0]), flags.format), flags)
    return 0


def table(plan: SearchPlan, folder: Path) -> list[Row]:
    """Build one row per member: its fitness, the other label-free numbers, its genome."""
    rows: list[Row] = []
    _, history = plan.next(folder)
    for generation, (genomes, _) in enumerate(history):
        for run, genome in zip(plan.members(generation, genomes), genomes, strict=True):
            last = last_metrics(folder / run.name)
            beside = {ENTROPY: last[ENTROPY]} if ENTROPY in last else {}
            row: Row = {"run": run.name, plan.fitness: last.get(plan.fitness, float("nan"))}
            rows.append(row | beside | dict(zip(plan.names, map(float, genome), strict=True)))
    return rows
