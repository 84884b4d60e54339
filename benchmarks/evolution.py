"""Evolved loss weights against equal ones and random search of the same cost, in one process.

python benchmarks/evolution.py --population=8 --generations=8 --steps=100 --search=0

A member is the recipe trained for some steps; all members share one compiled step and one compiled
initialisation, as weights and seed are arguments. The fitness is measured on clips of one half of
the held-out digits, with several motions and backgrounds each. The best of each search and equal
weights are then trained again from the seeds of the members and from others, and measured on clips
of the other half: the fitness, its entropy, and without a part in the search the kNN accuracy of
the digit's class.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core.inputs import Inputs
from ssl_jax.core.plain import Text
from ssl_jax.data.assemble import Pool
from ssl_jax.data.clips import Clips
from ssl_jax.data.sources import digits, moving_digits
from ssl_jax.evals.protocols.zipf import Zipf, cluster_shares, divergence, entropy
from ssl_jax.run.configs import configured
from ssl_jax.run.evolution import Generation, Settings, ask
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.state import init_fn
from ssl_jax.training.step import make_train_step

MOTIONS, NEIGHBOURS = 4, 20
STARTS = jax.random.split(jax.random.key(0), 2 * Zipf.starts)


class ClipsOfDigits(NamedTuple):
    """Clips (N, frames, h, w, 3) uint8 with the classes (N,) of their digits."""

    clips: np.ndarray
    classes: np.ndarray


class Trainer:
    """Trains members of the population on the same batches."""

    def __init__(self, steps: int, changes: list[str]):
        overrides = [("train.steps", steps)]
        overrides += [(key, Text(text)) for key, _, text in (c.partition("=") for c in changes)]
        self.run = Experiment.from_config(configured("evolving_losses:moving_digits", overrides))
        self.objective, mesh = self.run.objective, self.run.mesh
        self.step = make_train_step(
            self.objective, self.run.tx, self.run.schedule, mesh, self.run.placed
        )
        self.fresh = jax.jit(init_fn(self.objective, self.run.tx), out_shardings=self.run.placed)
        _, batches = self.run.training_batches(0, steps)
        self.batches = list(batches)
        net = self.objective.backbone
        self.embed = jax.jit(
            lambda p, s, x: net.apply(p, s, prepare(self.objective.view, x), train=False)[0].pooled
        )

    def __call__(
        self, weights: np.ndarray, seed: int, batches: int | None = None
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Train with these weights from a fresh state; return a function clips -> features."""
        state = self.fresh(jnp.uint32(seed))
        extra = dict(state.extra, weights=jnp.asarray(weights, jnp.float32))
        state = dataclasses.replace(state, extra=extra)
        with jax.set_mesh(self.run.mesh):
            for batch in self.batches[:batches]:
                state, _ = self.step(state, batch)
        encoder = self.objective.encoder(state.params, state.extra)
        return lambda clips: np.concatenate(
            [self.embed(encoder.params, encoder.stats, c) for c in np.split(clips, 5)]
        )

    def clips(self, split: str, rows: slice, seed: int) -> ClipsOfDigits:
        """Read clips of some digits with the motion and the background of a seed."""
        digit, photos = digits.load("", split), moving_digits.load("", split)._photos
        source = moving_digits.MovingDigits(
            "clips", digit.arrays[rows], digit.labels[rows], photos, seed
        )
        frames = self.objective.backbone.config.frames
        reader = Clips(source, Inputs((self.objective.view,), frames=frames), 3, seed=0)
        index = np.arange(len(source) // 5 * 5)
        return ClipsOfDigits(reader.batch(index, 0, Pool(1).run)["frames"], source.labels[index])

    def held_out(self, rows: slice) -> ClipsOfDigits:
        """Read clips of some held-out digits, `MOTIONS` of each."""
        each = [self.clips("eval", rows, seed) for seed in range(1, 1 + MOTIONS)]
        return ClipsOfDigits(*map(np.concatenate, zip(*each, strict=True)))


def zipf(features: np.ndarray) -> tuple[float, float]:
    """Return the divergence and the entropy that the protocol `zipf` measures."""
    shares, _ = cluster_shares(features, Zipf.clusters, None, STARTS)
    return divergence(shares), entropy(shares)


def neighbours(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, wanted: np.ndarray
) -> float:
    """Return the share of the classes `wanted` that the nearest training examples vote for."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    nearest = np.argsort(-unit(test) @ unit(train).T, axis=1)[:, :NEIGHBOURS]
    votes = np.stack([np.bincount(labels[row], minlength=10) for row in nearest])
    return float(np.mean(votes.argmax(1) == wanted))


def search(settings: Settings, trainer: Trainer, clips: np.ndarray, runs: int) -> np.ndarray:
    """Return the genome of a search with the best mean fitness on `clips` over the seeds 0 to
    `runs` - 1; all members are printed.
    """
    names = trainer.objective.tasks.names
    history: list[Generation] = []
    for generation in range(settings.generations):
        start, genomes = time.process_time(), ask(settings, len(names), history)
        each = [[zipf(trainer(genome, i)(clips)) for i in range(runs)] for genome in genomes]
        numbers = np.mean(each, axis=1).tolist()
        history.append(Generation(genomes, np.array([kl for kl, _ in numbers])))
        report = {"search": settings.algorithm, "generation": generation, "kl, entropy": numbers}
        print(json.dumps(report | {"cpu_s": time.process_time() - start}), flush=True)
    genomes, fitness = (np.concatenate(part) for part in zip(*history, strict=True))
    best = genomes[fitness.argmin()]
    print(json.dumps(dict(zip(names, best.tolist(), strict=True))), flush=True)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("population", 8), ("generations", 8), ("steps", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--search", type=int, default=0, help="seed of both searches")
    parser.add_argument("--runs", type=int, default=1, help="runs of a member, from other seeds")
    parser.add_argument("--algorithm", default="tournament", help="that of evolution, or cma")
    parser.add_argument("--seeds", type=int, default=4, help="other seeds of the final runs")
    parser.add_argument("changes", nargs="*", help="keys of the config, backbone.dim=32")
    flags = parser.parse_args()
    trainer = Trainer(flags.steps, flags.changes)
    train, half = trainer.clips("train", slice(None), 0), 180  # of 360
    fitness_of, test = trainer.held_out(slice(half)), trainer.held_out(slice(half, None))
    equal = np.ones(len(trainer.objective.tasks.names))
    finals = {"equal": (equal, None), "untrained": (equal, 0)}
    for algorithm in (flags.algorithm, "random"):
        settings = Settings(
            population=flags.population,
            generations=flags.generations,
            algorithm=algorithm,
            seed=flags.search,
        )
        finals[algorithm] = search(settings, trainer, fitness_of.clips, flags.runs), None
    for name, (weights, batches) in finals.items():
        first = flags.runs + flags.seeds * flags.search
        for seed in [*range(flags.runs), *range(first, first + flags.seeds)]:
            features = trainer(weights, seed, batches)
            bank, queries = features(train.clips), features(test.clips)
            knn = neighbours(bank, train.classes, queries, test.classes)
            row = {"weights": name, "search": flags.search, "seed": seed}
            row |= {"kl, entropy": zipf(queries), "knn": knn}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
