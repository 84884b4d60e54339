"""`ssl-jax evolve`: find numbers of a config, such as loss weights, by evolution.

ssl-jax evolve --config=evolving_losses:moving_digits --workdir=S --config.evals.protocols=zipf
ssl-jax evolve --config=evolving_losses:moving_digits --workdir=R --algorithm=random
ssl-jax evolve --config=METHOD:RECIPE --workdir=S --ask    # then: python -m launch.slurm --evolve

Each member of a generation is a run in its own folder, S/g00-m00 and so on; its fitness is a number
that its last evaluation measured. Run again, the command skips finished members and resumes an
unfinished one; the members are the same. S/best.json has the best numbers.
"""

import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ssl_jax import cli
from ssl_jax.cli.results import Row, TableFlags, ordered, rendered, show
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.core.watch import INTERRUPTED, PREEMPTED
from ssl_jax.run import flags as command_line
from ssl_jax.run.evolution import Generation, SearchPlan, Settings, mean_number
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
            print(f"{len(pending)} runs to train: {', '.join(run.name for run in pending)}")
            print(f"python -m launch.slurm --evolve --workdir={folder}")
            return 0
        for run in pending:
            print(f"{run.name} of {settings.generations} generations", file=sys.stderr, flush=True)
            code = cli.run(["train", *run.words(folder, flags.data, flags.eval_data)])
            if code in (INTERRUPTED, PREEMPTED):
                return code
            if code:
                raise UserError(f"{run.name} was not trained, for the reason above")
    rows, members = table(plan, folder)
    best = members.genomes[members.fitness.argmin()].tolist()
    write_json(folder / "best.json", dict(zip(plan.names, best, strict=True)))
    names = dict.fromkeys(("run", plan.fitness, ENTROPY, *plan.names))
    columns = [name for name in names if any(name in row for row in rows)]
    show(rendered(ordered(rows, flags.sort), columns, flags.format), flags)
    return 0


def table(plan: SearchPlan, folder: Path) -> tuple[list[Row], Generation]:
    """Build one row per member: its fitness, the other label-free number, its genome. Return also
    all members as one generation, in the same order.
    """
    rows: list[Row] = []
    _, history = plan.next(folder)
    for number, (genomes, fitness) in enumerate(history):
        members, values = plan.members(number, genomes).items(), fitness * plan.sign
        for (name, runs), genome, value in zip(members, genomes, values, strict=True):
            entropy = mean_number(folder, runs, ENTROPY)
            shown = {plan.fitness: float(value), ENTROPY: entropy}
            row: Row = {"run": name} | {k: v for k, v in shown.items() if math.isfinite(v)}
            rows.append(row | dict(zip(plan.names, map(float, genome), strict=True)))
    return rows, Generation(*map(np.concatenate, zip(*history, strict=True)))
