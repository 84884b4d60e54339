"""Weighted k-nearest-neighbour classification (InstDisc 1805.01978, section 3.4; DINO)."""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.evals.base import Protocol, Subject

Array = jax.Array

TILE_ELEMENTS = 2**25  # similarities held at once: 128 MiB in float32


@dataclass(frozen=True, kw_only=True)
class Knn(Protocol):
    """Accuracy of the weighted vote of the nearest training examples.

    Attributes:
      k: neighbours; all training examples where there are fewer.
      temperature: of their votes (0.07: Wu et al. 2018, arXiv 1805.01978).
    """

    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.k < 1 or self.temperature <= 0:
            raise UserError(
                f"knn: k = {self.k} and temperature = {self.temperature} must be positive"
            )

    def measure(self, subject: Subject) -> dict[str, float]:
        return next(numbers for _, numbers in self.measure_all([self], subject))

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: Subject
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """All k and temperatures of a layer in one pass."""
        subject.read(settings)
        layers = defaultdict(list)
        for one in settings:
            layers[subject.probe_of(one)].append(one)
        for group in layers.values():
            train, test = subject.train(group[0]), subject.test(group[0])
            near = {one: min(one.k, len(train.labels)) for one in group}
            found = knn_accuracy(
                *train,
                *test,
                subject.classes,
                sorted(set(near.values())),
                sorted({one.temperature for one in group}),
            )
            for one in group:
                yield one, {"knn_top1": found[near[one], one.temperature]}


def knn_probabilities(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    k: Sequence[int] = (20,),
    temperature: Sequence[float] = (0.07,),
) -> np.ndarray:
    """Class probabilities of the test rows, for every k and temperature in one pass.

    A neighbour votes for its class with weight `exp(cosine / temperature)`; the votes of the k
    nearest are divided by their sum. Among equally near rows the earlier ones are taken.

    Args:
      train: (N, D) features of any scale.
      train_labels: (N,) integers in [0, num_classes).
      test: (M, D).
      num_classes: C.
      k: numbers of neighbours.
      temperature: positive.

    Returns:
      (len(k), len(temperature), M, C) float32. It grows with all four: for accuracies alone call
      `knn_accuracy`.

    Raises:
      UserError: a k that is not in [1, N], or a temperature that is not positive.
    """
    return np.concatenate(
        [np.asarray(p) for p, _ in _tiles(train, train_labels, test, num_classes, k, temperature)],
        axis=2,
    )


def knn_accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
    k: Sequence[int] = (20,),
    temperature: Sequence[float] = (0.07,),
) -> dict[tuple[int, float], float]:
    """(k, temperature) -> share of the test rows whose most probable class is right.

    Arguments and errors are those of `knn_probabilities`; equally probable classes go to the lower.
    """
    test_labels = np.asarray(test_labels)
    right = np.zeros((len(k), len(temperature)), np.int64)
    for probabilities, rows in _tiles(train, train_labels, test, num_classes, k, temperature):
        guess = np.asarray(jnp.argmax(probabilities, axis=-1))
        right += np.sum(guess == test_labels[rows], axis=-1)
    share = right / len(test_labels)
    return {(n, t): float(share[i, j]) for i, n in enumerate(k) for j, t in enumerate(temperature)}


def _tiles(train, train_labels, test, num_classes, k, temperature):  # type: ignore[no-untyped-def]
    """Yields (probabilities of some test rows, the slice of these rows), all tiles of one shape."""
    if not all(1 <= n <= len(train) for n in k):
        raise UserError(f"knn: k = {list(k)} needs between 1 and {len(train)} neighbours")
    if not all(t > 0 for t in temperature):
        raise UserError(f"knn: temperature {list(temperature)} must be positive")
    train = _unit(jnp.asarray(train, jnp.float32))
    train_labels = jnp.asarray(train_labels, jnp.int32)
    temperatures = jnp.asarray(temperature, jnp.float32)
    size = min(len(test), max(1, TILE_ELEMENTS // len(train)))
    for start in range(0, len(test), size):
        rows = slice(start, min(start + size, len(test)))
        tile = np.zeros((size, test.shape[1]), np.float32)
        tile[: rows.stop - start] = test[rows]
        votes = _vote(train, train_labels, tile, temperatures, tuple(k), num_classes)
        yield votes[:, :, : rows.stop - start], rows


@functools.partial(jax.jit, static_argnames=("k", "num_classes"))
def _vote(
    train: Array,
    labels: Array,
    test: Array,
    temperature: Array,
    k: tuple[int, ...],
    num_classes: int,
) -> Array:
    similarity = jnp.matmul(_unit(test), train.T, precision="highest")
    nearest, index = jax.lax.top_k(similarity, max(k))
    # Relative to the nearest neighbour: the same shares, and exp cannot overflow.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature[:, None, None])
    rows = jnp.arange(len(test))[:, None]

    def shares(n: int) -> Array:
        votes = jnp.zeros((len(temperature), len(test), num_classes), jnp.float32)
        votes = votes.at[:, rows, labels[index[:, :n]]].add(weights[:, :, :n])
        return votes / jnp.sum(votes, axis=-1, keepdims=True)

    return jnp.stack([shares(n) for n in k])


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
