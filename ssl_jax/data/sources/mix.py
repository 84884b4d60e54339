"""`mix:0.7*folder:/a+0.3*npz:/b`: several data sets as one, in given shares."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import sources
from ssl_jax.data.draws import permute
from ssl_jax.data.levels import Range
from ssl_jax.data.sources.base import VERSION, Source, numbered

_MAX_EXAMPLES = 2**31 - 1  # indices are int32


class MixSource(Source):
    """Rows of several sources; `parts` says how many of each.

    A part of more rows than its source has examples holds each as often as the next, but for one: a
    fixed random choice of them stands once more. Each row has its own index, so an epoch shows each
    row once, with other crops each.

    Captions are there if all sources have them. Classes of one name are one class.
    """

    def __init__(self, name: str, parts: Sequence[tuple[Source, int]]) -> None:
        self.name = name
        self._sources = [source for source, _ in parts]
        self._first = np.cumsum([0, *(rows for _, rows in parts)])
        every = [_rows(len(source), rows) for source, rows in parts]
        self._rows = np.concatenate(every).astype(np.int32)
        self.labels, self.class_names = _merge_labels(self._sources, every)
        counts: Counter[str] = Counter()
        for source in self._sources:
            counts.update(source.left_out)
        self.left_out = counts
        if all(source.captions is not None for source in self._sources):
            places = map(self._place, range(len(self)))
            self.captions = [source.captions[i] for source, i in places if source.captions]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes | np.ndarray:
        source, row = self._place(index)
        return source.read(row)

    def read_in(self, value_range: Range) -> None:
        for source in self._sources:
            source.read_in(value_range)
        self.value_range = value_range

    def describe(self, index: int) -> str:
        source, row = self._place(index)
        return source.describe(row)

    def fingerprint(self, version: int = VERSION) -> str:
        """Digest of the sources' own, and of their shares."""
        parts = [source.fingerprint(version) for source in self._sources]
        text = f"{parts} {self._first.tolist()}"
        return numbered(hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), version)

    def _place(self, index: int) -> tuple[Source, int]:
        part = int(np.searchsorted(self._first, index, "right")) - 1
        return self._sources[part], int(self._rows[index])


def load(path: str, split: str) -> MixSource:
    """The data sets between `+`, each as --data takes it, with `WEIGHT*` before it or not.

    Without weights the sets are joined: each example once. With them, the shares of the rows are
    the weights, over their sum, and their number is the least for which each example of every set
    is there at least once; so the sets that are small for their weight are repeated.

    Raises:
      UserError: weights for some only, not positive, or that repeat a set beyond reason.
    """
    name = f"mix:{path}"
    if "mix:" in path:
        raise UserError(f"{name}: a mixture of mixtures; write all in one")
    weights, opened = [], []
    for weight, spec in _terms(path):
        weights.append(_weight(name, weight))
        opened.append(sources.open_source(spec, split))  # type: ignore[arg-type]
    given = [w for w in weights if w is not None]
    sizes = np.array([len(source) for source in opened])
    if given and len(given) < len(weights):
        raise UserError(f"{name}: weights for some only; expected WEIGHT*DATA for all or for none")
    share = np.array(given) / sum(given) if given else sizes / sizes.sum()
    total = float((sizes / share).max())
    if total > _MAX_EXAMPLES:
        raise UserError(
            f"{name}: {total:.3g} rows to show each example at least once; expected weights nearer "
            f"to the sizes {', '.join(map(str, sizes))}"
        )
    rows = np.maximum(sizes, np.round(share * total).astype(np.int64))
    return MixSource(name, list(zip(opened, rows.tolist(), strict=True)))


def absolute(path: str) -> str:
    """The same sets with absolute paths."""
    terms = [(weight, sources.absolute(spec)) for weight, spec in _terms(path)]
    return "+".join(spec if weight is None else f"{weight}*{spec}" for weight, spec in terms)


def _terms(path: str) -> list[tuple[str | None, str]]:
    """Weight, or None, and data of each term."""
    schemes = "|".join(s for s in sources.schemes() if s != "mix")
    found = []
    for term in re.split(rf"\+(?=(?:[^*+:/]*\*)?(?:{schemes})(?:[:+]|$))", path):
        match = re.fullmatch(r"(?:([^*:/]*)\*)?(.*)", term, re.DOTALL)
        assert match is not None  # it matches anything
        found.append((match[1], match[2]))
    return found


def _weight(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise UserError(f"{name}: weight {text!r}; expected a positive number")
    return weight


def _rows(size: int, rows: int) -> np.ndarray:
    """`rows` examples of `size`: all, as often as they fit, and a random choice of them."""
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
            new = np.array([*(number[n] for n in source.class_names), -1], np.int32)
            labels.append(new[source.labels[row]])  # -1 is the last of `new`
    return np.concatenate(labels), names
