"""Evolution of numbers of a config, such as the weights of losses: ask for a generation, train its
members, tell their fitness (Piergiovanni et al. 2020, arXiv:2002.12177).

`ask` is a function of the settings and of the generations so far, without a state of its own: a
search that was killed asks again and gets the same members, bit for bit.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_json
from ssl_jax.core.plain import from_json
from ssl_jax.core.ranges import Count, Positive, Seed, Several
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.study import Planned, finished, last_numbers

Array = np.ndarray
PLAN = "evolution.json"  # in the folder of the search
SEED = "train.seed"
DIGITS = 4  # decimals of a weight, so that a command line has it exactly
Algorithm = Literal["tournament", "cma", "random"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a search, which are flags of `ssl-jax evolve`."""

    population: Several = flag("members of a generation", 8)
    generations: Count = flag("number of generations", 5)
    algorithm: Algorithm = flag("how members are made", "tournament")
    tournament: Count = flag("members that compete to be a parent, of algorithm=tournament", 3)
    deviation: Positive = flag("deviation of a mutation, or that CMA-ES starts with", 0.3)
    seed: Seed = flag("number of the random draws", 0)
    runs: Count = flag("runs of a member, from other seeds; their mean fitness counts", 1)


class Generation(NamedTuple):
    """A generation that was trained.

    Attributes:
      genomes: (P, n), numbers in [0, 1].
      fitness: (P,), the smaller the better; infinite for a member without one.
    """

    genomes: Array
    fitness: Array


def ask(settings: Settings, size: int, history: Sequence[Generation]) -> Array:
    """Return the genomes (P, size) of the generation that follows those so far.

    The largest number of each genome is 1: a common factor of all weights would change nothing
    (with Adam), and with weights that are all small the networks would stay untrained, whose
    clusters may have a good fitness. The first member of the first generation has equal weights.
    """
    draw = np.random.default_rng([settings.seed, len(history)])
    if not history or settings.algorithm == "random":
        genomes = draw.uniform(size=(settings.population, size))
        if not history:
            genomes[0] = 1
    elif settings.algorithm == "cma":
        genomes = _cma(settings, size, history, draw)
    else:
        genomes = _tournaments(settings, history, draw)
    return projected(genomes)


def projected(genomes: Array) -> Array:
    """Clip genomes (P, n) to [0, 1] and scale each, so that its largest number is 1."""
    clipped = np.clip(genomes, 0, 1)
    largest = clipped.max(1, keepdims=True)
    return np.round(np.where(largest > 0, clipped / np.where(largest > 0, largest, 1), 1), DIGITS)


def _tournaments(
    settings: Settings, history: Sequence[Generation], draw: np.random.Generator
) -> Array:
    """Make children of the best P members so far: two parents, each the best of a few drawn ones,
    give every number with equal chances; one number in three then changes.
    """
    genomes, fitness = (np.concatenate(part) for part in zip(*history, strict=True))
    parents = genomes[np.argsort(fitness, kind="stable")[: settings.population]]
    shape = (settings.population, 2, settings.tournament)
    # The parents are sorted, so the best of a tournament has the smallest number.
    best = draw.integers(len(parents), size=shape).min(-1)
    first, second = parents[best[:, 0]], parents[best[:, 1]]
    children = np.where(draw.random(first.shape) < 0.5, first, second)
    changes = draw.random(first.shape) < 1 / 3
    return children + changes * settings.deviation * draw.normal(size=first.shape)


def _cma(
    settings: Settings, size: int, history: Sequence[Generation], draw: np.random.Generator
) -> Array:
    """Sample from the normal distribution of CMA-ES after all generations (Hansen 2016,
    arXiv:1604.00772, figure 6, with its default strategy parameters).
    """
    count = settings.population // 2
    weights = math.log(count + 0.5) - np.log(np.arange(1, count + 1))
    weights /= weights.sum()
    effective = 1 / np.sum(weights**2)
    c_sigma = (effective + 2) / (size + effective + 5)
    damping = 1 + 2 * max(0, math.sqrt((effective - 1) / (size + 1)) - 1) + c_sigma
    c_path = (4 + effective / size) / (size + 4 + 2 * effective / size)
    c_one = 2 / ((size + 1.3) ** 2 + effective)
    c_mu = min(1 - c_one, 2 * (effective - 2 + 1 / effective) / ((size + 2) ** 2 + effective))
    expected = math.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))  # of |N(0, I)|
    mean, sigma = np.full(size, 0.5), settings.deviation
    covariance, path, path_sigma = np.eye(size), np.zeros(size), np.zeros(size)
    for number, (genomes, fitness) in enumerate(history, 1):
        steps = (genomes[np.argsort(fitness, kind="stable")[:count]] - mean) / sigma
        move = weights @ steps
        values, axes = np.linalg.eigh(covariance)
        root = axes @ np.diag(np.maximum(values, 1e-20) ** -0.5) @ axes.T
        mean = mean + sigma * move
        path_sigma = (1 - c_sigma) * path_sigma
        path_sigma += math.sqrt(c_sigma * (2 - c_sigma) * effective) * root @ move
        length = float(np.linalg.norm(path_sigma))
        usual = math.sqrt(1 - (1 - c_sigma) ** (2 * number)) * (1.4 + 2 / (size + 1)) * expected
        moving = length < usual
        path = (1 - c_path) * path + moving * math.sqrt(c_path * (2 - c_path) * effective) * move
        lost = 0 if moving else c_one * c_path * (2 - c_path)
        covariance = (1 - c_one - c_mu + lost) * covariance + c_one * np.outer(path, path)
        covariance += c_mu * (steps.T * weights) @ steps
        sigma *= math.exp(min(1, c_sigma / damping * (length / expected - 1)))
    return draw.multivariate_normal(mean, sigma**2 * covariance, settings.population, "ignore")


@dataclass(frozen=True)
class SearchPlan:
    """A search in a folder.

    Attributes:
      config: METHOD:RECIPE or PATH.py:RECIPE of all members.
      overrides: further keys of their config.
      genes: key of the config that holds the numbers, by name.
      names: their names.
      fitness: metric of a run that is minimised, or with `maximize` maximised.
      data, eval_data: data sets, as for `ssl-jax train`.
    """

    config: str
    overrides: Mapping[str, Any]
    genes: str
    names: tuple[str, ...]
    fitness: str
    maximize: bool
    data: str
    eval_data: str
    settings: Settings

    @property
    def sign(self) -> int:
        """Factor of the metric that gives a fitness to minimise, 1 or -1."""
        return -1 if self.maximize else 1

    @classmethod
    def of(
        cls, config: str, overrides: Sequence[tuple[str, Any]], genes: str, **more: Any
    ) -> "SearchPlan":
        """Make the plan of a new search.

        Raises:
          UserError: an invalid config, or no numbers in [0, 1] at the key `genes`.
        """
        data = {name: more[name] for name in ("data", "eval_data")}
        resolved: Any = Experiment.from_config(configured(config, overrides, **data)).resolved()
        seed = resolved["train"]["seed"]
        for part in genes.split("."):
            resolved = resolved.get(part) if isinstance(resolved, Mapping) else None
        values = list(resolved.values()) if isinstance(resolved, Mapping) else []
        if not values or not all(isinstance(v, float) and 0 <= v <= 1 for v in values):
            raise UserError(
                f"--genes={genes}: expected a key of the config with a number in [0, 1] per name, "
                "such as objective.weights"
            )
        plain = {key: str(value) for key, value in overrides}
        if more["settings"].runs > 1:
            plain[SEED] = str(seed)  # that of the first run
        return cls(config, plain, genes, tuple(resolved), **more)

    @classmethod
    def read(cls, folder: Path) -> "SearchPlan":
        """Read the plan of the search in `folder`.

        Raises:
          UserError: there is none.
        """
        try:
            values = from_json((folder / PLAN).read_text())
            settings = Settings(**values.pop("settings"))
            return cls(**values | {"names": tuple(values["names"]), "settings": settings})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise UserError(
                f"no search in {folder}: start one with `ssl-jax evolve --config=... "
                f"--workdir={folder}`"
            ) from None

    def begin(self, folder: Path) -> None:
        """Write the plan to `folder`, or check that it is that of the search there.

        Raises:
          UserError: the search there has other settings.
        """
        if not (folder / PLAN).exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / PLAN, dataclasses.asdict(self))
            return
        before = SearchPlan.read(folder)
        longer = dataclasses.replace(before.settings, generations=self.settings.generations)
        if dataclasses.replace(before, settings=longer) != self:
            raise UserError(
                f"{folder} holds a search with other settings (see {PLAN}); use the same, only "
                "--generations may change, or another --workdir"
            )
        write_json(folder / PLAN, dataclasses.asdict(self))

    def members(self, generation: int, genomes: Array) -> dict[str, list[Planned]]:
        """Return the runs of each member of a generation, by the member's name; they differ in
        their seed.
        """
        members = {}
        for i, genome in enumerate(genomes):
            name = f"g{generation:02}-m{i:02}"
            genes = {f"{self.genes}.{n}": float(x) for n, x in zip(self.names, genome, strict=True)}
            changes = {**self.overrides, **genes}
            if self.settings.runs == 1:
                members[name] = [Planned(name, self.config, changes)]
                continue
            first = int(self.overrides[SEED])
            members[name] = [
                Planned(f"{name}-s{seed}", self.config, {**changes, SEED: seed})
                for seed in range(first, first + self.settings.runs)
            ]
        return members

    def next(self, folder: Path) -> tuple[list[Planned], list[Generation]]:
        """Return the runs of the first generation of which some are not finished, [] if all
        generations are, and the generations before it.
        """
        history: list[Generation] = []
        for generation in range(self.settings.generations):
            genomes = ask(self.settings, len(self.names), history)
            members = self.members(generation, genomes)
            runs = [run for each in members.values() for run in each]
            if not all(finished(folder / run.name) for run in runs):
                return runs, history
            history.append(self.tell(folder, members, genomes))
        return [], history

    def tell(
        self, folder: Path, members: Mapping[str, Sequence[Planned]], genomes: Array
    ) -> Generation:
        """Read the fitness of the trained members of a generation: the mean over the runs of each,
        which must all have it.

        Raises:
          UserError: no member has a fitness.
        """
        values = [mean_number(folder, runs, self.fitness) for runs in members.values()]
        fitness = np.array(values) * self.sign
        if not np.isfinite(fitness).any():
            raise UserError(
                f"--fitness={self.fitness}: no member of the generation of {next(iter(members))} "
                "has this number; set evals.protocols to measure it"
            )
        return Generation(genomes, np.where(np.isfinite(fitness), fitness, np.inf))


def pending(folder: Path) -> list[list[str]]:
    """Return the arguments of `ssl-jax train` for each member of the search in `folder` that can be
    trained now: those of its first unfinished generation.

    Raises:
      UserError: no search is there, or all its generations are finished.
    """
    plan = SearchPlan.read(folder)
    runs, _ = plan.next(folder)
    if not runs:
        raise UserError(f"{folder}: all {plan.settings.generations} generations are finished")
    unfinished = [run for run in runs if not finished(folder / run.name)]
    return [run.words(folder, plan.data, plan.eval_data) for run in unfinished]


def mean_number(folder: Path, runs: Sequence[Planned], name: str) -> float:
    """Return the mean over `runs` of the last value of a metric; NaN if one has none."""
    values = [last_numbers(folder / run.name).get(name, math.nan) for run in runs]
    return float(np.mean(values))
