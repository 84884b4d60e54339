"""Counter-based random draws on the host: numbers and permutations as pure functions of integers.

Everything random that the host does is computed from (seed, epoch, index, ...) by one 64-bit hash,
so element i needs no generator state, no host needs to know another, and the numbers do not change
with the version of a library. It works on arrays: a whole batch costs a fraction of a millisecond,
where one `numpy.random.Generator` an example costs 17-24 us and grain's `index_shuffle` 6-35 us.
"""

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6  # even, so that the two halves are back in their places


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def fold(*parts: int | np.ndarray) -> np.ndarray:
    """One 64-bit word from non-negative integers; arrays broadcast against each other."""
    with np.errstate(over="ignore"):
        word = np.zeros((), np.uint64)
        for part in parts:
            word = _mix(_mix(word + _STEP) ^ np.asarray(part).astype(np.uint64))
        return word


def uniform(*parts: int | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform draws in [0, 1), float64, (*broadcast shape of parts, *shape)."""
    key = fold(*parts)
    counter = np.arange(np.prod(shape, dtype=np.int64))
    words = fold(key[..., None], counter)
    return (words >> np.uint64(11)).astype(np.float64).reshape(*key.shape, *shape) * 2.0**-53


def permute(position: np.ndarray, length: int, key: int | np.ndarray) -> np.ndarray:
    """Where `position` (any shape) goes in the permutation of 0..length-1 that `key` names; int64.

    A Feistel network over the next power of two; what falls outside of [0, length) is sent through
    again until it falls inside (cycle walking), which keeps it a bijection. No table: a data set of
    two billion examples costs what one of two thousand costs.
    """
    bits = max(4, int(length - 1).bit_length())
    high, low = np.uint64(bits // 2), np.uint64(bits - bits // 2)
    keys = fold(key, np.arange(_ROUNDS))

    def network(x: np.ndarray) -> np.ndarray:
        wide, narrow = low, high  # bits of the right half and of the left one
        left, right = x >> low, x & _ones(low)
        for k in keys:
            left, right = right, left ^ (_mix(right + k) & _ones(narrow))
            wide, narrow = narrow, wide
        return (left << low) | right

    with np.errstate(over="ignore"):
        out = network(np.atleast_1d(position).astype(np.uint64))
        while (outside := out >= length).any():
            out[outside] = network(out[outside])
    return out.astype(np.int64).reshape(np.shape(position))


def _ones(bits: np.uint64) -> np.uint64:
    return (np.uint64(1) << bits) - np.uint64(1)
