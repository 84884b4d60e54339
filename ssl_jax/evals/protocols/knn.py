"""Weighted k-nearest-neighbour classification (InstDisc 1805.01978, section 3.4; DINO)."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, place
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.evals.base import AtLayer, Subject, group_by
from ssl_jax.evals.scores import accuracies

Array = jax.Array

TRAIN_ROWS = 2**15  # training rows that are on the devices at once
TILE_ELEMENTS = 2**25  # similarities that a device holds at once: 128 MiB in float32
CPU_TILE_ELEMENTS = 2**21  # on a CPU, for its caches
BLOCK = 64  # adjacent training rows of which only the nearest is compared at first


@dataclass(frozen=True, kw_only=True)
class Knn(AtLayer):
    """Accuracy of the weighted vote of the nearest training examples.

    Attributes:
      k: neighbours; all training examples if there are fewer, which a sweep may contain once.
      temperature: temperature of their votes (0.07: Wu et al. 2018, arXiv 1805.01978).
    """

    k: Count = 20
    temperature: Positive = 0.07

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: Subject
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """Measure all k and temperatures of a layer in one pass."""
        for setting in settings:
            setting.check(subject)
        subject.read(settings)
        for group in group_by(settings, subject.probe_of):
            train, test = subject.train(group[0]), subject.test(group[0])
            neighbours = {setting: min(setting.k, len(train.labels)) for setting in group}
            if len({(neighbours[setting], setting.temperature) for setting in group}) < len(group):
                raise UserError(
                    f"knn: k = {sorted({setting.k for setting in group})} are the same with "
                    f"{len(train.labels)} training examples; list at most one k of this size"
                )
            classes = knn_classes(
                *train,
                test.features,
                subject.classes,
                sorted(set(neighbours.values())),
                sorted({setting.temperature for setting in group}),
                subject.images.mesh,
            )
            for setting in group:
                predictions = classes[neighbours[setting], setting.temperature]
                yield setting, accuracies(predictions, test.labels, "knn")


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
      train_labels: (N,) integers in [0, num_classes).
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
    classes = np.concatenate([p.argmax(-1).astype(np.int32) for p in _tiles(*args)], axis=-1)
    return {(n, t): classes[i, j] for i, n in enumerate(k) for j, t in enumerate(temperature)}


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
    if not all(1 <= n <= len(train) for n in k):
        raise UserError(f"knn: expected k between 1 and {len(train)}, got {list(k)}")
    if not all(t > 0 for t in temperature):
        raise UserError(f"knn: temperature {list(temperature)} must be positive")
    labels = np.asarray(train_labels, np.int32)
    temperatures = np.asarray(temperature, np.float32)
    for cosines, index, count in _nearest_tiles(train, test, max(k), mesh):
        votes = _vote(cosines, labels[index], temperatures, tuple(k), num_classes)
        yield np.asarray(votes)[:, :, :count]


def nearest(
    train: np.ndarray, test: np.ndarray, k: Count, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines (M, k) float32 of the k nearest training rows, greatest first, and their
    row numbers (M, k) int32; ties go to the earlier rows.

    The training rows pass over the devices in tiles, each once; all test rows stay on the devices.

    Args:
      train: (N, D) features of any scale, N >= k.
      test: (M, D).
      k: neighbours.
      mesh: test rows are split over its devices.
    """
    tiles = [(c[:count], i[:count]) for c, i, count in _nearest_tiles(train, test, k, mesh)]
    cosines, index = zip(*tiles, strict=True)
    return np.concatenate(cosines), np.concatenate(index)


def _nearest_tiles(
    train: np.ndarray, test: np.ndarray, k: Count, mesh: Mesh | None
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield the results of `nearest` in tiles of equal shape, with their number of real rows; the
    last tile is padded.
    """
    device = SingleDeviceSharding(jax.devices()[0])
    apart, whole = (
        (sharding.batch_sharding(mesh), sharding.replicated(mesh)) if mesh else (device, device)
    )
    devices = mesh.size if mesh else 1
    elements = CPU_TILE_ELEMENTS if jax.default_backend() == "cpu" else TILE_ELEMENTS
    columns = _even(len(train), TRAIN_ROWS, BLOCK)
    size = _even(len(test), max(1, elements // columns) * devices, devices)
    starts = range(0, len(test), size)
    tiles = [_unit(place(_padded(test[start : start + size], size), apart)) for start in starts]
    nothing = np.full((size, k), -np.inf, np.float32), np.zeros((size, k), np.int32)
    best = [place(nothing, apart) for _ in tiles]
    for start in range(0, len(train), columns):
        rows = train[start : start + columns]
        unit_rows = _unit(place(_padded(rows, columns), whole))
        best = [
            _nearer(tile, unit_rows, np.int32(start), np.int32(len(rows)), *nearest_rows)
            for tile, nearest_rows in zip(tiles, best, strict=True)
        ]
    for start, nearest_rows in zip(starts, best, strict=True):
        cosines, index = gather(nearest_rows)
        yield cosines, index, min(size, len(test) - start)


def _even(count: int, most: int, multiple: int) -> int:
    """Return the rows per tile if `count` rows are cut into equal tiles of about `most` or less."""
    size = -(-count // -(-count // most))
    return size + -size % multiple


def _padded(rows: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((size, rows.shape[1]), np.float32)
    out[: len(rows)] = rows
    return out


@functools.partial(jax.jit, donate_argnames=("nearest", "index"))
def _nearer(
    test: Array, train: Array, start: Array, count: Array, nearest: Array, index: Array
) -> tuple[Array, Array]:
    """Merge the k nearest so far with `count` more rows; return the k greatest cosines (T, k) and
    their rows.
    """
    similarity = jnp.matmul(test, train.T, precision="highest")
    similarity = jnp.where(jnp.arange(len(train)) < count, similarity, -jnp.inf)
    k = nearest.shape[1]
    cosines, rows = _top(similarity, min(k, len(train)))
    # Earlier results come first, so that ties go to the earlier rows.
    both = jnp.concatenate([nearest, cosines], 1)
    where = jnp.concatenate([index, rows.astype(jnp.int32) + start], 1)
    nearest, order = jax.lax.top_k(both, k)
    return nearest, jnp.take_along_axis(where, order, 1)


def _top(x: Array, k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of (T, N), BLOCK a divisor of N, in a fraction of its time.

    The k greatest are in the k blocks of the greatest maxima: for a value in another block, each of
    these holds a greater value, or an equal one before it.
    """
    blocks = x.reshape(len(x), -1, BLOCK)
    _, where = jax.lax.top_k(blocks.max(-1), min(k, blocks.shape[1]))
    where = jnp.sort(where, 1)  # equal values stay in order
    candidates = jnp.take_along_axis(blocks, where[:, :, None], 1).reshape(len(x), -1)
    values, at = jax.lax.top_k(candidates, k)
    return values, jnp.take_along_axis(where, at // BLOCK, 1) * BLOCK + at % BLOCK


@functools.partial(jax.jit, static_argnames=("k", "num_classes"))
def _vote(
    nearest: Array, labels: Array, temperature: Array, k: tuple[Count, ...], num_classes: int
) -> Array:
    """Return shares (len(k), temperatures, T, C) of the votes, from the greatest cosines (T, max k)
    and their labels.
    """
    # Relative to the nearest neighbour: the same shares, and exp cannot overflow.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature[:, None, None])
    rows = jnp.arange(len(nearest))[:, None]

    def shares(n: int) -> Array:
        votes = jnp.zeros((len(temperature), len(nearest), num_classes), jnp.float32)
        votes = votes.at[:, rows, labels[:, :n]].add(weights[:, :, :n])
        return votes / jnp.sum(votes, axis=-1, keepdims=True)

    return jnp.stack([shares(n) for n in k])


@jax.jit
def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
