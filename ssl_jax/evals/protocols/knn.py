"""Weighted k-nearest-neighbour classification (InstDisc 1805.01978, section 3.4; DINO)."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.evals.average_precision import mean_average_precision, precision_titles
from ssl_jax.evals.base import AtLayer, Subject, group_by
from ssl_jax.evals.neighbours import nearest_tiles
from ssl_jax.evals.scores import GUESSES, accuracies, accuracy_titles, best_classes, guesses_of
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@dataclass(frozen=True, kw_only=True)
class Knn(AtLayer):
    """Accuracy of the weighted vote of the nearest training examples; with several labels per image
    the mean average precision of ranking the images by the votes for each class.

    Attributes:
      k: neighbours; all training examples if there are fewer, which a sweep may contain once.
      temperature: temperature of their votes (0.07: Wu et al. 2018, arXiv 1805.01978).
    """

    titles: ClassVar[Mapping[str, str]] = {
        **accuracy_titles("knn", "nearest neighbours (kNN)"),
        **precision_titles("knn", "nearest neighbours (kNN)"),
    }
    scores: ClassVar[tuple[str, ...]] = ("knn",)
    decides: ClassVar[tuple[str, ...]] = ("knn_top1", "knn_map")
    multi: ClassVar[bool] = True

    k: Count = 20
    temperature: Positive = 0.07

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: Subject
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """Measure all k and temperatures of a layer in one pass."""
        subject.read(settings)
        for group in group_by(settings, subject.probe_of):
            train, test = subject.train(group[0]), subject.test(group[0])
            neighbours = {setting: min(setting.k, len(train.labels)) for setting in group}
            if len({(neighbours[setting], setting.temperature) for setting in group}) < len(group):
                raise UserError(
                    f"knn: k = {sorted({setting.k for setting in group})} are the same with "
                    f"{len(train.labels)} training examples; list at most one k of this size"
                )
            args = (*train, test.features, subject.classes)
            ks = sorted(set(neighbours.values()))
            temperatures = sorted({setting.temperature for setting in group})
            if subject.multi:
                shares = knn_probabilities(*args, ks, temperatures, subject.images.mesh)
                for setting in group:
                    i, j = ks.index(neighbours[setting]), temperatures.index(setting.temperature)
                    yield setting, mean_average_precision(shares[i, j], test.labels, "knn")
                continue
            guesses = knn_guesses(*args, ks, temperatures, subject.images.mesh)
            for setting in group:
                k = neighbours[setting]
                best = guesses[k, setting.temperature]
                best = best if k >= GUESSES else best[:, 0]  # fewer neighbours make no five guesses
                yield setting, accuracies(best, test.labels, "knn")


def knn_probabilities(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: Sequence[int] = (20,),
    temperature: Sequence[float] = (0.07,),
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Compute class probabilities of the test rows, for every k and temperature in one pass.

    A neighbour votes for its class with weight `exp(cosine / temperature)`; the votes of the k
    nearest are divided by their sum. Ties go to the earlier rows. The training rows pass over the
    devices in tiles, each once: they may be larger than the memory.

    Args:
      train: (N, D) features of any scale.
      train_labels: (N,) integers in [0, num_classes); or (N, C), 1 for the classes of each example,
        0 for others, -1 if that is not known: then a class has the share of the votes of those
        neighbours of which it is known, 0 if it is of none.
      test: (M, D).
      num_classes: C.
      k: numbers of neighbours.
      temperature: positive.
      mesh: test rows are split over its devices.

    Returns:
      (len(k), len(temperature), M, C) float32. It grows with all four: `knn_classes` returns the
      classes alone.

    Raises:
      UserError: a k that is not in [1, N], or a temperature that is not positive.
    """
    args = (train, train_labels, test, num_classes, k, temperature, mesh)
    return np.concatenate(list(_tiles(*args)), axis=2)


def knn_classes(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: Sequence[int] = (20,),
    temperature: Sequence[float] = (0.07,),
    mesh: Mesh | None = None,
) -> dict[tuple[int, float], np.ndarray]:
    """Return (k, temperature) -> the most probable class (M,) of each test row.

    Arguments and errors are those of `knn_probabilities`; ties go to the lower class.
    """
    args = (train, train_labels, test, num_classes, k, temperature, mesh)
    return {pair: guesses[:, 0] for pair, guesses in knn_guesses(*args).items()}


def knn_guesses(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: Sequence[int] = (20,),
    temperature: Sequence[float] = (0.07,),
    mesh: Mesh | None = None,
) -> dict[tuple[int, float], np.ndarray]:
    """Return (k, temperature) -> the classes (M, n) of most votes of each test row, n as in
    `scores.guesses_of`: most first, -1 in place of classes without a vote.

    Arguments and errors are those of `knn_probabilities`; ties go to the lower class.
    """
    args = (train, train_labels, test, num_classes, k, temperature, mesh)
    count = guesses_of(num_classes)

    def best(shares: np.ndarray) -> np.ndarray:
        rows = np.where(shares > 0, shares, -np.inf).reshape(-1, shares.shape[-1])
        return best_classes(rows, count).reshape(*shares.shape[:-1], count)

    guesses = np.concatenate([best(shares) for shares in _tiles(*args)], axis=2)
    return {(n, t): guesses[i, j] for i, n in enumerate(k) for j, t in enumerate(temperature)}


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    k: Sequence[int] = (20,),
    temperature: Sequence[float] = (0.07,),
    mesh: Mesh | None = None,
) -> dict[tuple[int, float], float]:
    """Return (k, temperature) -> share of the test rows whose class in `knn_classes` is right."""
    check_shapes("knn: test (M, D), test_labels (M) int", test, test_labels)
    predictions = knn_classes(train, train_labels, test, num_classes, k, temperature, mesh)
    return {pair: float(np.mean(classes == test_labels)) for pair, classes in predictions.items()}


def _tiles(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: Sequence[int],
    temperature: Sequence[float],
    mesh: Mesh | None,
) -> Iterator[np.ndarray]:
    """Yield the probabilities of the test rows in tiles."""
    labels_shape = "(N)" if np.ndim(train_labels) < 2 else "(N, C)"
    expected = f"knn: train (N, D), train_labels {labels_shape} int, test (M, D)"
    check_shapes(expected, train, train_labels, test)
    if not all(1 <= n <= len(train) for n in k):
        raise UserError(f"knn: expected k between 1 and {len(train)}, got {list(k)}")
    if not all(t > 0 for t in temperature):
        raise UserError(f"knn: temperature {list(temperature)} must be positive")
    labels = np.asarray(train_labels, np.int32 if np.ndim(train_labels) < 2 else np.int8)
    temperatures = np.asarray(temperature, np.float32)
    for cosines, index, count in nearest_tiles(train, test, max(k), mesh):
        votes = _vote(cosines, labels[index], temperatures, tuple(k), num_classes)
        yield np.asarray(votes)[:, :, :count]


@functools.partial(jax.jit, static_argnames=("k", "num_classes"))
def _vote(
    nearest: Array, labels: Array, temperature: Array, k: tuple[Count, ...], num_classes: int
) -> Array:
    """Return shares (len(k), temperatures, T, C) of the votes, from the greatest cosines (T, max k)
    and their labels (T, max k), or tables of labels (T, max k, C).
    """
    # Relative to the nearest neighbour: the same shares, and exp cannot overflow.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature[:, None, None])
    rows = jnp.arange(len(nearest))[:, None]

    def shares(n: int) -> Array:
        if labels.ndim == 3:
            table = labels[:, :n]
            shown, labelled = (
                jnp.einsum("tbn,bnc->tbc", weights[:, :, :n], x.astype(jnp.float32))
                for x in (table == 1, table >= 0)
            )
            return jnp.where(labelled > 0, shown / jnp.where(labelled > 0, labelled, 1), 0)
        votes = jnp.zeros((len(temperature), len(nearest), num_classes), jnp.float32)
        votes = votes.at[:, rows, labels[:, :n]].add(weights[:, :, :n])
        return votes / jnp.sum(votes, axis=-1, keepdims=True)

    return jnp.stack([shares(n) for n in k])
