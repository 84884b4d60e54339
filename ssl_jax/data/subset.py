"""Parts of a data set: a random share, a fold, a few labelled examples."""

import hashlib
import re
from functools import cached_property
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import copies
from ssl_jax.data.copies import examples
from ssl_jax.data.levels import Range
from ssl_jax.data.sources.base import VERSION, Sound, Source, with_version
from ssl_jax.data.sources.mix import MixSource


class Subset(Source):
    """Source of some examples, `rows` (N,), of another one, with the same class numbers."""

    def __init__(self, source: Source, rows: np.ndarray, name: str) -> None:
        self.name = name
        self._source, self._rows = source, np.asarray(rows, np.int64)
        self.class_names, self.left_out = source.class_names, source.left_out
        self.labels = None if source.labels is None else source.labels[self._rows]
        if source.label_sets is not None:
            self.label_sets = source.label_sets.part(self._rows)
        if source.unsure is not None:
            self.unsure = source.unsure.part(self._rows)
        self.value_range = source.value_range
        self.masked, self.sounded, self.moving = source.masked, source.sounded, source.moving
        self.lengths = None if source.lengths is None else source.lengths[self._rows]
        if source.captions is not None:
            self.captions = [source.captions[int(row)] for row in self._rows]
        if source.names is not None:
            self.names = [source.names[int(row)] for row in self._rows]

    @cached_property
    def arrays(self) -> np.ndarray | None:  # type: ignore[override]
        return None if self._source.arrays is None else self._source.arrays[self._rows]

    def read_in(self, value_range: Range) -> None:
        self._source.read_in(value_range)
        self.value_range = value_range
        self.__dict__.pop("arrays", None)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes | np.ndarray:
        return self._source.read(int(self._rows[index]))

    def read_frame(self, index: int, frame: int) -> bytes | np.ndarray:
        return self._source.read_frame(int(self._rows[index]), frame)

    def read_mask(self, index: int) -> np.ndarray | Path:
        return self._source.read_mask(int(self._rows[index]))

    def read_sound(self, index: int) -> Path | Sound:
        return self._source.read_sound(int(self._rows[index]))

    def read_flow(self, index: int, frame: int) -> np.ndarray:
        return self._source.read_flow(int(self._rows[index]), frame)

    def describe(self, index: int) -> str:
        return self._source.describe(int(self._rows[index]))

    def origin(self, index: int) -> tuple[Source, int]:
        return self._source.origin(int(self._rows[index]))

    def fingerprint(self, version: int = VERSION) -> str:
        """Digest the source's fingerprint and the rows."""
        digest = hashlib.blake2b(self._source.fingerprint(version).encode(), digest_size=16)
        digest.update(self._rows.tobytes())
        return with_version(digest.hexdigest(), version)


def fraction(source: Source, share: float) -> Source:
    """Select a fixed random share of the examples, regardless of classes; a smaller share is a part
    of a larger one.

    Raises:
      UserError: a share that is not in (0, 1], or that holds no example.
    """
    if share == 1:
        return source
    count = round(share * len(source))
    if not 0 < share < 1 or count < 1:
        raise UserError(
            f"data.fraction: expected a share in (0, 1] that holds at least one of the "
            f"{len(source)} examples of {source.name}, got {share}"
        )
    rows = np.random.default_rng(0).permutation(len(source))[:count]
    return Subset(source, np.sort(rows), f"{source.name}, {share:g} of it")


def fold(train: Source, test: Source | None, which: str) -> tuple[Source, Source]:
    """Join both sets and split them anew by fold "i/n", 1 <= i <= n, an n-th for evaluation.

    Each example is evaluated in one of the n folds, together with all of its copies. The split is
    fixed, and even over the classes if there are labels.

    Returns:
      The training and the evaluation set.

    Raises:
      UserError: an invalid fold, or fewer examples than folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold  # takes a second to import

    parts = [(source, len(source)) for source in (train, test) if source is not None]
    whole = MixSource("+".join(source.name for source, _ in parts), parts)
    match = re.fullmatch(r"(\d+)/(\d+)", which)
    i, n = map(int, match.groups()) if match else (0, 0)
    first, example = examples(whole)
    if not (1 <= i <= n and 2 <= n <= len(first)):
        raise UserError(
            f"data.fold: expected 'i/n', such as '2/5', with 1 <= i <= n and 2 <= n <= "
            f"{len(first)} examples, got {which!r}"
        )
    labels = np.zeros(len(first)) if whole.labels is None else whole.labels[first]
    even = whole.labels is not None and np.unique(labels, return_counts=True)[1].max() >= n
    folds = (StratifiedKFold if even else KFold)(n, shuffle=True, random_state=0)
    chosen = np.zeros(len(first), bool)
    chosen[list(folds.split(labels, labels))[i - 1][1]] = True
    held = chosen[example]
    name = f"{whole.name}, fold {which}"
    return (
        Subset(whole, np.flatnonzero(~held), name),
        Subset(whole, np.flatnonzero(held), f"{name}, held out"),
    )


def holdout(source: Source, share: float) -> tuple[Subset, Subset]:
    """Hold out a fixed random share of the examples, even over the classes, copies together; return
    (rest, held out).

    Raises:
      UserError: a share that holds out no example.
    """
    held = copies.held_out(source, seed=1, share=share)
    if not held.any() or held.all():
        raise UserError(
            f"data.holdout: {share:g} of the {len(source)} examples of {source.name} holds out "
            f"{'all' if held.all() else 'none'}; {'lower' if held.all() else 'raise'} it, or add "
            "labelled images"
        )
    return (
        Subset(source, np.flatnonzero(~held), f"{source.name} but {share:g} of it"),
        Subset(source, np.flatnonzero(held), f"{share:g} of {source.name}"),
    )


def labelled(source: Source, amount: str, draw: int = 0) -> Subset:
    """Draw a random labelled part: "5" labels per class, or "1%", even over the classes.

    Draw i equals that of the few-label evaluation (`evals.fewshot`) on the same set, so both can be
    compared on the same labels.

    Raises:
      UserError: an invalid amount, or a source without labels.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", amount)
    number = float(match[1]) if match else 0.0
    percent = bool(match and match[2])
    if not number > 0 or (number > 100 if percent else number % 1) or draw < 0:
        raise UserError(
            "data.labelled: expected labels per class, '5', or a share, '1%', and a draw of at "
            f"least 0; got {amount!r}, draw {draw}"
        )
    if source.labels is None:
        raise UserError(f"data.labelled: {source.name} has no labels")
    candidates = np.flatnonzero(source.labels >= 0)
    labels = source.labels[candidates]
    if percent:
        chosen = draw_fraction(labels, number / 100, 0, draw)
    else:
        chosen = draw_labels(labels, int(number), 0, draw)
    part = f"{amount} of the labels" if percent else f"{amount} labels per class"
    return Subset(source, np.sort(candidates[chosen]), f"{source.name}, {part}, draw {draw}")


def draw_labels(labels: np.ndarray, n: int, seed: int, draw: int) -> np.ndarray:
    """Draw rows of a random labelled subset: n of each class, or all of a class that has fewer.

    A pure function of its arguments, so features of the same rows are compared on the same draws.

    Args:
      labels: (N,) class numbers; or (N, C), 1 for the classes of each example, which may be drawn
        for several of them but is returned once.
    """
    rng = np.random.default_rng([seed, n, draw])
    if labels.ndim == 2:
        columns = (np.flatnonzero(column == 1) for column in labels.T)
        return np.unique(np.concatenate([rng.permutation(rows)[:n] for rows in columns]))
    rows = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    return np.concatenate([rng.permutation(r)[:n] for r in rows])


def draw_fraction(labels: np.ndarray, share: float, seed: int, draw: int) -> np.ndarray:
    """Draw rows of a random labelled subset: `round(share N)` of the N, as evenly over the classes
    as their sizes allow, and at least one of each.

    The classes that give one more than others are random too. The usual 1 % and 10 % of ImageNet
    were made this way (SimCLR 2002.05709, section 4.2: 12 or 13 and 128 or 129 images per class).
    With several labels per example, (N, C), any `round(share N)` of them, at least one.
    """
    rng = np.random.default_rng([seed, round(share * 1e9), draw])
    if labels.ndim == 2:
        return rng.permutation(len(labels))[: max(round(share * len(labels)), 1)]
    rows = [np.flatnonzero(labels == c) for c in rng.permutation(np.unique(labels))]
    sizes = np.array([len(r) for r in rows])
    counts, left = np.zeros_like(sizes), max(round(share * len(labels)), len(rows))
    while left:
        some = np.flatnonzero(counts < sizes)[:left]
        more = np.minimum(left // len(some), (sizes - counts)[some])
        counts[some] += more
        left -= more.sum()
    return np.concatenate([rng.permutation(r)[:n] for r, n in zip(rows, counts, strict=True)])
