"""Detection of rows that show the same example, and splits that keep such copies together."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ssl_jax.data.decode import DecodeError
from ssl_jax.data.sources.base import Source

READ = 4096  # compare the bytes of up to this many encoded images, else their files or rows
SHARE = 5  # one of this many examples is held out
THREADS = 16


def identities(source: Source, rows: np.ndarray | None = None, most: int = READ) -> np.ndarray:
    """Return digests (N,) uint64 of the images at `rows`, by default all: equal for copies.

    Images in memory and up to `most` encoded ones are compared by content. In larger sets rows are
    copies if they are read from the same file, or from the same row of the same set.
    """
    rows = np.arange(len(source)) if rows is None else rows
    places = [source.origin(int(row)) for row in rows]
    few = sum(origin.arrays is None for origin, _ in places) <= most

    def digest(place: tuple[Source, int]) -> int:
        origin, row = place
        content = b""
        if origin.arrays is not None or few:
            try:
                image = origin.read(row)
                content = image if isinstance(image, bytes) else _bytes(image)
            except (OSError, DecodeError):
                pass  # a corrupt image has no copies
        whole = content or origin.describe(row).encode(errors="surrogateescape")
        return _digest(whole)

    if all(origin.arrays is not None for origin, _ in places) or not few:
        return np.fromiter(map(digest, places), np.uint64, len(places))
    with ThreadPoolExecutor(THREADS) as threads:
        return np.fromiter(threads.map(digest, places), np.uint64, len(places))


def examples(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Apply `grouped` to all rows of a set."""
    return grouped(identities(source))


def grouped(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group rows of equal digests (N,) into examples.

    Returns:
      The first row of each example (E,), in order, and the example of each row (N,). If all rows
      are equal, each is an example of its own.
    """
    _, first, example = np.unique(digests, return_index=True, return_inverse=True)
    if len(first) < 2:
        return np.arange(len(digests)), np.arange(len(digests))
    order = np.argsort(first)
    return first[order], np.argsort(order)[example]


def apart(features: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose a random share of the examples, even over the labels (N,): (N,) bool. Rows of equal
    features (N, ...) are copies of one example.
    """
    first, example = grouped(np.array([_digest(row.tobytes()) for row in features], np.uint64))
    order, count = even_order(labels[first], seed), round(share * len(first))
    chosen = np.zeros(len(first), bool)
    # From the middle of equal intervals: neither the first nor the last class gives more.
    chosen[order[((np.arange(count) + 0.5) * len(order) / max(count, 1)).astype(np.int64)]] = True
    return chosen[example]


def held_out(source: Source, seed: int = 0, share: float = 1 / SHARE) -> np.ndarray:
    """Choose rows to hold out, by default if there is no evaluation set: (N,) bool, this share of
    the examples, drawn at random, even over the labels; all copies of an example are on the same
    side.

    A class with a single example stays in training, unless most examples are of such classes.
    """
    first, example = examples(source)
    labels = np.zeros(len(first), np.int64) if source.labels is None else source.labels[first]
    classes, of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    single = (sizes[of] == 1) & (labels >= 0) & (len(classes) > 1)
    if 2 * single.sum() > len(labels):
        labels, single = np.where(single, -2, labels), np.zeros_like(single)
    order = even_order(labels, seed)
    order = order[~single[order]]
    count = int(share * len(order) + 1e-9)
    chosen = order[((np.arange(count) + 1) / share + 1e-9).astype(np.int64) - 1]
    if not len(chosen) and len(order) > 1:
        chosen = order[-1:]
    held = np.zeros(len(first), bool)
    held[chosen] = True
    return held[example]


def even_order(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Order all rows (N,) by label, randomly within each: every n-th is even over the labels."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    return shuffled[np.argsort(labels[shuffled], kind="stable")]


def sample(labels: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """Draw at most `limit` of the rows (N,) at random, even over the labels; keep their order."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    order = even_order(labels, seed)
    return np.sort(order[np.linspace(0, len(order) - 1, limit).astype(np.int64)])


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _bytes(image: np.ndarray) -> bytes:
    """Return the pixels and shape as bytes."""
    return repr((image.shape, image.dtype.str)).encode() + np.ascontiguousarray(image).tobytes()
