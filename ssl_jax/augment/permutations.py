"""Permutations that differ in many places: the classes of jigsaw puzzles."""

import functools
import itertools
import math
from typing import Literal

import numpy as np

from ssl_jax.core.errors import UserError

LARGEST = 9  # tiles; 10! permutations would take minutes and half a gigabyte


def check_count(length: int, count: int) -> None:
    """Raises UserError for more permutations than there are, or too many tiles."""
    if not 1 <= length <= LARGEST:
        raise UserError(f"permutations of {length} tiles: there may be 1 to {LARGEST}")
    if not 1 <= count <= math.factorial(length):
        raise UserError(
            f"{count} permutations of {length} tiles: there are {math.factorial(length)}"
        )


@functools.cache
def distant_permutations(
    length: int, count: int, criterion: Literal["mean", "min"] = "mean", seed: int = 0
) -> np.ndarray:
    """(count, length) int32: permutations of 0..length-1, far from each other; read-only.

    The greedy choice of Noroozi and Favaro (1603.09246, algorithm 1): from a random first one on,
    always the permutation of the largest mean Hamming distance to those chosen ("mean", as in the
    released sets), or of the largest smallest distance and then the largest mean ("min", which
    makes easier puzzles). A pure function of its arguments; `count = length!` are all of them.

    Raises:
      UserError: more permutations than there are, or too many tiles.
    """
    check_count(length, count)
    places = np.array(list(itertools.permutations(range(length))), np.int8).T.copy()
    newest = int(np.random.default_rng(seed).integers(places.shape[1]))
    total = np.zeros(places.shape[1], np.int64)
    least = np.full(places.shape[1], length if criterion == "min" else 0, np.int64)
    chosen = []
    for _ in range(count):
        chosen.append(newest)
        distance = sum((row != row[newest]).astype(np.int64) for row in places)
        total += distance
        if criterion == "min":
            least = np.minimum(least, distance)
        score = (least << 32) + total  # equal smallest distances are told apart by the mean
        score[chosen] = -1
        newest = int(np.argmax(score))
    out = places[:, chosen].T.astype(np.int32)
    out.setflags(write=False)
    return out
