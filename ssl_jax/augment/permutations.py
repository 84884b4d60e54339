"""Permutations with large Hamming distances: the classes of jigsaw puzzles."""

import functools
import itertools
import math
from typing import Literal

import numpy as np

from ssl_jax.core.errors import UserError

LARGEST = 9  # tiles; 10! permutations would take minutes and half a gigabyte


def check_count(length: int, count: int) -> None:
    """Check the number of tiles and permutations.

    Raises:
      UserError: more permutations than exist, or too many tiles.
    """
    if not 1 <= length <= LARGEST:
        raise UserError(f"permutations: expected 1 to {LARGEST} tiles, got {length}")
    if not 1 <= count <= math.factorial(length):
        raise UserError(
            f"permutations of {length} tiles: expected 1 to {math.factorial(length)}, got {count}"
        )


@functools.cache
def distant_permutations(
    length: int, count: int, criterion: Literal["mean", "min"] = "mean", seed: int = 0
) -> np.ndarray:
    """Choose permutations of 0..length-1 far from each other: (count, length) int32, read-only.

    The greedy algorithm of Noroozi and Favaro (1603.09246, algorithm 1): after a random first
    permutation, always choose the one with the largest mean Hamming distance to those chosen before
    ("mean", as in the released sets), or with the largest minimum distance and then the largest
    mean ("min", which makes easier puzzles). A pure function of its arguments; `count = length!`
    returns all permutations.

    Raises:
      UserError: more permutations than exist, or too many tiles.
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
        score = (least << 32) + total  # ties of the minimum are broken by the mean
        score[chosen] = -1
        newest = int(np.argmax(score))
    out = places[:, chosen].T.astype(np.int32)
    out.setflags(write=False)
    return out
