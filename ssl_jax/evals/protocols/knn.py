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
from ssl_jax.evals.base import AtLayer, Subject, grouped
from ssl_jax.evals.scores import accuracies

Array = jax.Array

TRAIN_ROWS = 2**15  # of the training features that lie on the devices at once
TILE_ELEMENTS = 2**25  # similarities that a device holds at once: 128 MiB in float32
CPU_TILE_ELEMENTS = 2**21  # on a CPU, for its caches
BLOCK = 64  # neighbouring training rows of which only the nearest is looked at first


@dataclass(frozen=True, kw_only=True)
class Knn(AtLayer):
    """Accuracy of the weighted vote of the nearest training examples.

    Attributes:
      k: neighbours; all training examples where there are fewer, which a sweep may ask for once.
      temperature: of their votes (0.07: Wu et al. 2018, arXiv 1805.01978).
    """

    k: Count = 20
    temperature: Positive = 0.07

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: Subject
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """All k and temperatures of a layer in one pass."""
        for one in settings:
            one.check(subject)
        subject.read(settings)
        for group in grouped(settings, subject.probe_of):
            train, test = subject.train(group[0]), subject.test(group[0])
            near = {one: min(one.k, len(train.labels)) for one in group}
            if len({(near[one], one.temperature) for one in group}) < len(group):
                raise UserError(
                    f"knn: k = {sorted({one.k for one in group})} are the same where there are "
                    f"{len(train.labels)} training examples"
                )
            found = knn_classes(
                *train,
                test.features,
                subject.classes,
                sorted(set(near.values())),
                sorted({one.temperature for one in group}),
                subject.images.mesh,
            )
            for one in group:
                yield one, accuracies(found[near[one], one.temperature], test.labels, "knn")


def knn_probabilities(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: Sequence[int] = (20,),
    temperature: Sequence[float] = (0.07,),
    mesh: Mesh | None = None,
) -> np.ndarray:
    """Class probabilities of the test rows, for every k and temperature in one pass.

    A neighbour votes for its class with weight `exp(cosine / temperature)`; the votes of the k
    nearest are divided by their sum. Among equally near rows the earlier ones are taken. The
    training rows pass over the devices in tiles, each once: they may be larger than the memory.

    Args:
      train: (N, D) features of any scale.
      train_labels: (N,) integers in [0, num_classes).
      test: (M, D).
      num_classes: C.
      k: numbers of neighbours.
      temperature: positive.
      mesh: test rows are split over its devices.

    Returns:
      (len(k), len(temperature), M, C) float32. It grows with all four: for classes alone call
      `knn_classes`.

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
    """(k, temperature) -> the most probable class (M,) of each test row.

    Arguments and errors are those of `knn_probabilities`; equally probable classes go to the lower.
    """
    args = (train, train_labels, test, num_classes, k, temperature, mesh)
    found = np.concatenate([p.argmax(-1).astype(np.int32) for p in _tiles(*args)], axis=-1)
    return {(n, t): found[i, j] for i, n in enumerate(k) for j, t in enumerate(temperature)}


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
    """(k, temperature) -> share of the test rows whose class in `knn_classes` is right."""
    found = knn_classes(train, train_labels, test, num_classes, k, temperature, mesh)
    return {one: float(np.mean(classes == test_labels)) for one, classes in found.items()}


def _tiles(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: Sequence[int],
    temperature: Sequence[float],
    mesh: Mesh | None,
) -> Iterator[np.ndarray]:
    """Probabilities of the test rows, some at a time, all tiles of one shape."""
    if not all(1 <= n <= len(train) for n in k):
        raise UserError(f"knn: k = {list(k)} needs between 1 and {len(train)} neighbours")
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
    """Cosines (M, k) float32 of the k nearest training rows, greatest first, and their numbers
    (M, k) int32; of equally near ones the earlier come first.

    The training rows pass over the devices in tiles, each once; the test rows lie on them whole.

    Args:
      train: (N, D) features of any scale, N >= k.
      test: (M, D).
      k: neighbours.
      mesh: test rows are split over its devices.
    """
    found = [(c[:count], i[:count]) for c, i, count in _nearest_tiles(train, test, k, mesh)]
    cosines, index = zip(*found, strict=True)
    return np.concatenate(cosines), np.concatenate(index)


def _nearest_tiles(
    train: np.ndarray, test: np.ndarray, k: Count, mesh: Mesh | None
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """What `nearest` finds, and of how many rows: tiles of one shape, the last one filled up."""
    one = SingleDeviceSharding(jax.devices()[0])
    apart, whole = (
        (sharding.batch_sharding(mesh), sharding.replicated(mesh)) if mesh else (one, one)
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
        seen = _unit(place(_padded(rows, columns), whole))
        best = [
            _nearer(tile, seen, np.int32(start), np.int32(len(rows)), *found)
            for tile, found in zip(tiles, best, strict=True)
        ]
    for start, found in zip(starts, best, strict=True):
        cosines, index = gather(found)
        yield cosines, index, min(size, len(test) - start)


def _even(count: int, most: int, multiple: int) -> int:
    """Rows of a tile, where `count` rows are cut into equal ones of about `most` or fewer."""
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
    """The k greatest cosines (T, k) and their rows, of those found and of `count` more rows."""
    similarity = jnp.matmul(test, train.T, precision="highest")
    similarity = jnp.where(jnp.arange(len(train)) < count, similarity, -jnp.inf)
    k = nearest.shape[1]
    new, rows = _top(similarity, min(k, len(train)))
    # What was found comes first: of equally near rows the earlier ones are taken.
    both = jnp.concatenate([nearest, new], 1)
    where = jnp.concatenate([index, rows.astype(jnp.int32) + start], 1)
    nearest, order = jax.lax.top_k(both, k)
    return nearest, jnp.take_along_axis(where, order, 1)


def _top(x: Array, k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of (T, N), BLOCK a divisor of N, in a fraction of its time.

    The k greatest lie in the k blocks of the greatest maxima: whatever is in another block has in
    each of these something greater, or as great and before it.
    """
    blocks = x.reshape(len(x), -1, BLOCK)
    _, where = jax.lax.top_k(blocks.max(-1), min(k, blocks.shape[1]))
    where = jnp.sort(where, 1)  # equally great ones stay in order
    candidates = jnp.take_along_axis(blocks, where[:, :, None], 1).reshape(len(x), -1)
    found, at = jax.lax.top_k(candidates, k)
    return found, jnp.take_along_axis(where, at // BLOCK, 1) * BLOCK + at % BLOCK


@functools.partial(jax.jit, static_argnames=("k", "num_classes"))
def _vote(
    nearest: Array, labels: Array, temperature: Array, k: tuple[Count, ...], num_classes: int
) -> Array:
    """Shares (len(k), temperatures, T, C) from the greatest cosines (T, max k) and their labels."""
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
