"""`mix:0.7*folder:/a+0.3*npz:/b`: several data sets as one, with weights."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import sources
from ssl_jax.data.draws import permute
from ssl_jax.data.label_sets import LabelSets
from ssl_jax.data.levels import Range
from ssl_jax.data.sources.base import VERSION, Source, with_version

_MAX_EXAMPLES = 2**31 - 1  # indices are int32


class MixSource(Source):
    """Rows of several sources; `parts` gives the number of rows of each.

    A part with more rows than its source has examples repeats all examples equally often, and a
    fixed random choice of them once more. Each row has its own index, so an epoch shows each row
    once, with different crops.

    There are captions if all sources have them. Classes of the same name are one class.
    """

    def __init__(self, name: str, parts: Sequence[tuple[Source, int]]) -> None:
        self.name = name
        self._sources = [source for source, _ in parts]
        self._first = np.cumsum([0, *(rows for _, rows in parts)])
        every = [_rows(len(source), rows) for source, rows in parts]
        self._rows = np.concatenate(every).astype(np.int32)
        self.labels, self.class_names = _merge_labels(self._sources, every)
        if any(source.label_sets is not None for source in self._sources):
            self.labels = None  # in the lists, those of the sets that have one label per image
            self.label_sets, self.unsure = _merge_label_sets(self._sources, every, self.class_names)
        counts: Counter[str] = Counter()
        for source in self._sources:
            counts.update(source.left_out)
        self.left_out = counts
        self.masked = all(source.masked for source in self._sources)
        if all(source.captions is not None for source in self._sources):
            places = map(self._place, range(len(self)))
            self.captions = [source.captions[i] for source, i in places if source.captions]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes | np.ndarray:
        source, row = self._place(index)
        return source.read(row)

    def read_mask(self, index: int) -> np.ndarray | Path:
        source, row = self._place(index)
        return source.read_mask(row)

    def read_in(self, value_range: Range) -> None:
        for source in self._sources:
            source.read_in(value_range)
        self.value_range = value_range

    def describe(self, index: int) -> str:
        source, row = self._place(index)
        return source.describe(row)

    def origin(self, index: int) -> tuple[Source, int]:
        source, row = self._place(index)
        return source.origin(row)

    def fingerprint(self, version: int = VERSION) -> str:
        """Digest the fingerprints of the sources and their shares."""
        parts = [source.fingerprint(version) for source in self._sources]
        text = f"{parts} {self._first.tolist()}"
        return with_version(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), version)

    def _place(self, index: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._first, index, "right")) - 1
        return self._sources[part], int(self._rows[index])


def load(path: str, split: str) -> MixSource:
    """Open the data sets between `+`, each as in --data, optionally after `WEIGHT*`.

    Without weights the sets are joined, each example once. With weights, the shares of the rows are
    proportional to them, and the number of rows is the smallest that includes each example of every
    set at least once; so sets that are small for their weight are repeated.

    Raises:
      UserError: weights for only some sets, not positive, or that repeat a set too often.
    """
    name = f"mix:{path}"
    if "mix:" in path:
        raise UserError(f"{name}: expected no mixture in a mixture; list all sets in one")
    weights, opened = [], []
    for weight, spec in _terms(path):
        weights.append(_weight(name, weight))
        opened.append(sources.open_source(spec, split))  # type: ignore[arg-type]
    numbers = [w for w in weights if w is not None]
    sizes = np.array([len(source) for source in opened])
    if numbers and len(numbers) < len(weights):
        raise UserError(f"{name}: expected WEIGHT*DATA for all sets or for none")
    share = np.array(numbers) / sum(numbers) if numbers else sizes / sizes.sum()
    total = float((sizes / share).max())
    if total > _MAX_EXAMPLES:
        raise UserError(
            f"{name}: these weights need {total:.3g} rows to include each example once; expected "
            f"weights closer to the sizes {', '.join(map(str, sizes))}"
        )
    rows = np.maximum(sizes, np.round(share * total).astype(np.int64))
    return MixSource(name, list(zip(opened, rows.tolist(), strict=True)))


def absolute(path: str) -> str:
    """Make the paths of all sets absolute."""
    terms = [(weight, sources.absolute(spec)) for weight, spec in _terms(path)]
    return "+".join(spec if weight is None else f"{weight}*{spec}" for weight, spec in terms)


def _terms(path: str) -> list[tuple[str | None, str]]:
    """Split `path` into terms: weight, or None, and data."""
    schemes = "|".join(s for s in sources.schemes() if s != "mix")
    terms = []
    for term in re.split(rf"\+(?=(?:[^*+:/]*\*)?(?:{schemes})(?:[:+]|$))", path):
        match = re.fullmatch(r"(?:([^*:/]*)\*)?(.*)", term, re.DOTALL)
        assert match is not None  # it matches anything
        terms.append((match[1], match[2]))
    return terms


def _weight(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise UserError(f"{name}: expected a positive weight, got {text!r}")
    return weight


def _rows(size: int, rows: int) -> np.ndarray:
    """Choose `rows` of `size` examples: all, as often as they fit, and a random rest."""
    whole, rest = divmod(rows, size)
    return np.concatenate([np.tile(np.arange(size), whole), permute(np.arange(rest), size, 0)])


def _merge_labels(
    parts: Sequence[Source], rows: Sequence[np.ndarray]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    names = tuple(dict.fromkeys(n for source in parts for n in source.class_names))
    if not names:
        return None, ()
    number = {n: i for i, n in enumerate(names)}
    labels = []
    for source, row in zip(parts, rows, strict=True):
        if source.labels is None:
            labels.append(np.full(len(row), -1, np.int32))
        else:
            table = np.array([*(number[n] for n in source.class_names), -1], np.int32)
            labels.append(table[source.labels[row]])  # label -1 takes the last entry
    return np.concatenate(labels), names


def _merge_label_sets(
    parts: Sequence[Source], rows: Sequence[np.ndarray], names: tuple[str, ...]
) -> tuple[LabelSets, LabelSets | None]:
    """Return the labels of all rows, numbered as in `names`, and the classes not known of them:
    all of an example without a label, and those that only other sets have.
    """
    number = {n: i for i, n in enumerate(names)}
    sets, unsure = [], []
    for source, row in zip(parts, rows, strict=True):
        own = np.array([number[n] for n in source.class_names], np.int64)
        foreign = np.setdiff1d(np.arange(len(names)), own)
        labels, unlabelled = source.label_sets, np.zeros(len(source), bool)
        if labels is None:
            single = np.full(len(source), -1) if source.labels is None else source.labels
            unlabelled = single < 0
            labels = LabelSets(np.flatnonzero(~unlabelled), single[~unlabelled], len(source))
        unknown = np.zeros((len(source), len(names)), bool)
        unknown[:, foreign] = True
        unknown[unlabelled] = True
        if source.unsure is not None:
            everything = np.arange(len(source))
            unknown[:, own] |= source.unsure.indicators(everything, len(own)) > 0
        sets.append(labels.part(row).renumbered(own))
        unsure.append(LabelSets.of_table(unknown[row]))
    has_unsure = any(part.most for part in unsure)
    return LabelSets.joined(sets), LabelSets.joined(unsure) if has_unsure else None
