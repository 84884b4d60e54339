"""Evolved loss weights against equal ones and random search of the same cost, in one process.

python benchmarks/evolution.py --population=6 --generations=4 --steps=60

A member is the recipe trained for some steps; all members share one compiled step and one compiled
initialisation, as weights and seed are arguments. The fitness is measured on one half of the
held-out clips. The best of each search and equal weights are then trained again from other seeds
and measured on the other half: the fitness, its entropy, and without a part in the search the R2 of
a ridge regression from features of training clips to the digit's place and velocity, and the kNN
accuracy of its class.
"""

import argparse
import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core.inputs import Inputs
from ssl_jax.core.plain import Text
from ssl_jax.data.assemble import Pool
from ssl_jax.data.clips import Clips
from ssl_jax.data.draws import uniform
from ssl_jax.data.sources import held_out, open_source
from ssl_jax.evals.protocols.zipf import cluster_shares
from ssl_jax.losses.zipf import zipf_divergence
from ssl_jax.run.configs import configured
from ssl_jax.run.evolution import Generation, Settings, ask
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.state import init_fn
from ssl_jax.training.step import make_train_step

CLUSTERS, NEIGHBOURS = 10, 20


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
        self.view, frames = self.objective.view, self.objective.backbone.config.frames
        self.train = read(open_source("moving_digits", "train"), self.view, frames)
        self.test = read(held_out("moving_digits"), self.view, frames)
        net = self.objective.backbone
        self.embed = jax.jit(
            lambda p, s, x: net.apply(p, s, prepare(self.view, x), train=False)[0].pooled
        )

    def __call__(self, weights: np.ndarray, seed: int):
        """Train with these weights from a fresh state; return a function clips -> features."""
        state = self.fresh(jnp.uint32(seed))
        extra = dict(state.extra, weights=jnp.asarray(weights, jnp.float32))
        state = dataclasses.replace(state, extra=extra)
        with jax.set_mesh(self.run.mesh):
            for batch in self.batches:
                state, _ = self.step(state, batch)
        encoder = self.objective.encoder(state.params, state.extra)
        return lambda clips: np.concatenate(
            [self.embed(encoder.params, encoder.stats, c) for c in np.split(clips, 5)]
        )


def read(source, view, frames):
    """Read one clip of each example and its class, place and velocity."""
    index = np.arange(len(source) // 5 * 5)
    clips = Clips(source, Inputs((view,), frames=frames), 3, seed=0)
    pixels = clips.batch(index, 0, Pool(1).run)["frames"]
    starts = [clips._start(i, uniform(0, 0, int(i), 1, 1, shape=(1,))[0]) for i in index]
    places = np.stack(
        [
            source._place(i, np.array([s, s + frames - 1]))
            for i, s in zip(index, starts, strict=True)
        ]
    )
    targets = np.concatenate([places.mean(1), np.diff(places, axis=1)[:, 0]], axis=1)
    return pixels, source.labels[index], targets.astype(np.float64)


def zipf(features):
    shares, _ = cluster_shares(features, CLUSTERS, None, jax.random.key(0))
    shares = np.asarray(shares)
    return float(zipf_divergence(shares)), float(np.sum(jax.scipy.special.entr(shares)))


def r_squared(train, targets, test, wanted):
    """Return R2 of a ridge regression, the mean over the targets."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, y = ((np.c_[(f - mean) / std, np.ones(len(f))]) for f in (train, test))
    solved = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ targets)
    error = np.square(y @ solved - wanted).sum(0)
    return 1 - error / np.square(wanted - targets.mean(0)).sum(0)


def neighbours(train, labels, test, wanted):
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    nearest = np.argsort(-unit(test) @ unit(train).T, axis=1)[:, :NEIGHBOURS]
    votes = np.stack([np.bincount(labels[row], minlength=10) for row in nearest])
    return float(np.mean(votes.argmax(1) == wanted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("population", 6), ("generations", 4), ("steps", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the final runs")
    parser.add_argument("changes", nargs="*", help="keys of the config, backbone.dim=32")
    flags = parser.parse_args()
    trainer = Trainer(flags.steps, flags.changes)
    names, half = trainer.objective.tasks.names, len(trainer.test[0]) // 2 // 5 * 5
    best = {"equal": np.ones(len(names))}
    for algorithm in ("tournament", "random"):
        settings = Settings(
            population=flags.population, generations=flags.generations, algorithm=algorithm
        )
        history: list[Generation] = []
        for generation in range(flags.generations):
            start, genomes = time.process_time(), ask(settings, len(names), history)
            numbers = [zipf(trainer(genome, 0)(trainer.test[0][:half])) for genome in genomes]
            history.append(Generation(genomes, np.array([kl for kl, _ in numbers])))
            report = {"search": algorithm, "generation": generation, "kl, entropy": numbers}
            print(json.dumps(report | {"cpu_s": time.process_time() - start}), flush=True)
        genomes, fitness = (np.concatenate(part) for part in zip(*history, strict=True))
        best[algorithm] = genomes[fitness.argmin()]
        print(json.dumps(dict(zip(names, best[algorithm].tolist(), strict=True))), flush=True)
    for name, weights in [*best.items(), ("untrained", None)]:
        for seed in range(1, flags.seeds + 1):
            batches = trainer.batches
            if weights is None:
                trainer.batches = []
            features = trainer(np.ones(len(names)) if weights is None else weights, seed)
            trainer.batches = batches
            (pixels, labels, targets), (clips, classes, wanted) = trainer.train, trainer.test
            train, test = features(pixels), features(clips)[half:]
            kl, entropy = zipf(test)
            row = {"weights": name, "seed": seed, "kl": kl, "entropy": entropy}
            row["place_r2, velocity_r2"] = [
                float(r.mean()) for r in np.split(r_squared(train, targets, test, wanted[half:]), 2)
            ]
            row["knn"] = neighbours(train, labels, test, classes[half:])
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
