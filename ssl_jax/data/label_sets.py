"""Several labels per example, and the hierarchy that adds the wider classes of each."""

from collections.abc import Iterable, Sequence

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.labels import number_labels


class LabelSets:
    """The labels of N examples, none or several each, in two arrays.

    Args:
      rows, labels: (M,) pairs of an example and one of its class numbers; repetitions count once.
      count: N.
    """

    def __init__(self, rows: np.ndarray, labels: np.ndarray, count: int) -> None:
        pairs = np.stack([rows, labels]).astype(np.int64).reshape(2, -1)
        self._rows, self._labels = np.unique(pairs, axis=1)  # sorted by row, then by label
        self._starts = np.searchsorted(self._rows, np.arange(count + 1))

    @classmethod
    def of(cls, sets: Sequence[Iterable[int]]) -> "LabelSets":
        """Collect the labels `sets[i]` of each example i."""
        pairs = [(row, label) for row, labels in enumerate(sets) for label in labels]
        rows, labels = np.array(pairs, np.int64).reshape(-1, 2).T
        return cls(rows, labels, len(sets))

    @classmethod
    def of_table(cls, table: np.ndarray) -> "LabelSets":
        """Collect the classes c of each example i with `table[i, c]`, of a table (N, C)."""
        rows, labels = np.nonzero(table)
        return cls(rows, labels, len(table))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self._labels[self._starts[row] : self._starts[row + 1]]

    @property
    def most(self) -> int:
        """Largest number of labels of an example."""
        return int(np.diff(self._starts).max(initial=0))

    def padded(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Return the labels of the examples `rows` (b,): (b, width) int32, -1 after the last."""
        place = self._starts[rows][:, None] + np.arange(width)
        inside = place < self._starts[rows + 1][:, None]
        labels = np.append(self._labels, -1)  # for a set without any label
        return np.where(inside, labels[np.where(inside, place, -1)], -1).astype(np.int32)

    def indicators(self, rows: np.ndarray, classes: int) -> np.ndarray:
        """Return 1 for each class of the examples `rows` (b,), else 0: (b, classes) int8."""
        out = np.zeros((len(rows), classes), np.int8)
        part = self.part(rows)
        out[part._rows, part._labels] = 1
        return out

    def renumbered(self, numbers: np.ndarray) -> "LabelSets":
        """Return the same examples with class `numbers[c]` in place of c."""
        return LabelSets(self._rows, np.asarray(numbers)[self._labels], len(self))

    @classmethod
    def joined(cls, sets: Sequence["LabelSets"]) -> "LabelSets":
        """Return the examples of all of `sets`, in order."""
        firsts = np.cumsum([0, *(len(part) for part in sets)])
        rows = [part._rows + first for part, first in zip(sets, firsts, strict=False)]
        labels = [part._labels for part in sets]
        return cls(np.concatenate(rows), np.concatenate(labels), int(firsts[-1]))

    def part(self, rows: np.ndarray) -> "LabelSets":
        """Return those of the examples `rows`, in that order."""
        counts = np.diff(self._starts)[rows]
        labels = self._labels[_ragged(self._starts[rows], counts)]
        return LabelSets(np.repeat(np.arange(len(rows)), counts), labels, len(rows))

    def closed(self, parents: np.ndarray, classes: int) -> "LabelSets":
        """Add to each example all classes above its labels. A second time this changes nothing.

        Args:
          parents: (E, 2), pairs of a class and a class above it. A class may have several.
          classes: number of classes.
        """
        above = LabelSets.of(_ancestors(parents, classes))
        counts = np.diff(above._starts)[self._labels]
        labels = above._labels[_ragged(above._starts[self._labels], counts)]
        return LabelSets(np.repeat(self._rows, counts), labels, len(self))

    def tobytes(self) -> bytes:
        """Return the labels as bytes, for fingerprints."""
        return self._starts.tobytes() + self._labels.tobytes()


def _ragged(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return starts[i], starts[i] + 1, ..., counts[i] of them, for one i after another."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


def _ancestors(parents: np.ndarray, classes: int) -> list[set[int]]:
    """Return for each class itself and all classes above it; cycles are allowed."""
    above: list[list[int]] = [[] for _ in range(classes)]
    for child, parent in parents:
        above[int(child)].append(int(parent))
    every = []
    for start in range(classes):
        reached, waiting = {start}, [start]
        while waiting:
            fresh = set(above[waiting.pop()]) - reached
            reached |= fresh
            waiting += fresh
        every.append(reached)
    return every


def number_label_sets(
    values: Sequence[Sequence[int | str] | None], name: str, class_names: Sequence[str] = ()
) -> tuple[LabelSets | None, tuple[str, ...]]:
    """Return the label sets and the class names; (None, ()) without any label.

    Args:
      values: the class numbers or names of each example, [] or None without.
      name, class_names: see `number_labels`.

    Raises:
      UserError: as `number_labels`; a class number of -1, which means no label only where there is
        one per image.
    """
    sets = [tuple(v or ()) for v in values]
    flat = [label for labels in sets for label in labels]
    if any(label is None or label == -1 for label in flat):
        raise UserError(f"{name}: a list of labels holds none or -1; expected an empty list")
    labels, names = number_labels(flat, name, class_names)
    if labels is None:
        return None, ()
    rows = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    return LabelSets(rows, labels, len(sets)), names
