"""Folders that name parts of a data set, such as `train`, `Validation`, `test2017`, `unlabeled`,
not classes: which part is for training, and which are held out.
"""

import os.path
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
_WORDS = {
    TRAIN: "train|training",
    VALIDATION: "val|valid|validation|eval|evaluation|dev|holdout|held[ _-]?out",
    TEST: "test|testing",
    UNLABELLED: "unlabell?ed|unsup|unsupervised|pred|predict|prediction",
}
_ANY = "|".join(f"(?P<{part}>{words})" for part, words in _WORDS.items())
_MORE = r"(?:[ _-]*(?:set|data|split|images?|imgs?|\d+))*"  # train2017, val_images, test-set
_NAME = re.compile(rf"(?:{_ANY}){_MORE}", re.IGNORECASE)


class Choice(NamedTuple):
    """Selected rows of a list of paths.

    Attributes:
      rows: positions in the list.
      left_out: reason -> number of other rows.
      part: the folder of a held-out part, otherwise "".
    """

    rows: np.ndarray
    left_out: dict[str, int]
    part: str


def part_of(folder: str) -> str | None:
    """Return the part that a folder's name means; None for any other name."""
    match = _NAME.fullmatch(folder)
    return match.lastgroup if match else None


def parts_of(folders: Iterable[str]) -> dict[str, str | None]:
    """Return the part that each name means, alone or after what all names start with: `seg_train`,
    `seg_test`.
    """
    names = sorted(set(folders))
    shared = _shared_prefix(names)
    return {name: part_of(name) or part_of(name.removeprefix(shared)) for name in names}


def choose(paths: Sequence[str], part: str, which: str) -> Choice:
    """Choose all images of a folder, or its training or held-out images if it has both: if the
    first folders in which paths differ all name parts of a data set.

    The validation images are held out, or else the test images, if they have labels when the
    training images do. Unlabelled images are for training.

    Args:
      part: a folder, "." for all images; "" applies the rule above.
      which: "train", or "eval" for the held-out part; all images if nothing is held out.
    """
    everything = np.arange(len(paths))
    if part:
        below = f"{part.strip('/')}/"
        inside = [i for i, p in enumerate(paths) if part == "." or f"{p}/".startswith(below)]
        return Choice(np.array(inside, np.int64), {}, "")
    above, tops = _distinct_tops(paths)
    parts = parts_of(tops)
    labels, _ = top_folders(paths)
    of = np.array([parts[top] or "" for top in tops])
    has_label = np.ones(len(paths), bool) if labels is None else labels >= 0
    held = next((p for p in (VALIDATION, TEST) if (has_label & (of == p)).any()), None)
    if None in parts.values() or TRAIN not in parts.values() or held is None:
        return Choice(everything, {}, "")
    folder = above + next(top for top, kind in parts.items() if kind == held)
    if which == "eval":
        return Choice(np.flatnonzero(of == held), {}, folder)
    trained = (of == TRAIN) | (of == UNLABELLED)
    left_out = {}
    for top, kind in parts.items():
        if kind not in (TRAIN, UNLABELLED):
            why = "held out for evaluation" if kind == held else "neither trained nor evaluated on"
            left_out[f"in {above}{top}/, {why}"] = tops.count(top)
    return Choice(np.flatnonzero(trained), left_out, "")


def choose_files(paths: Sequence[str], which: str) -> tuple[list[str], dict[str, int], str]:
    """Apply `choose` to the files of a folder of tables or records, whose names
    (`train-00000.parquet`, `mnist_train.parquet`) or folders name parts.

    Returns:
      The files, reason -> number of other files, and the name of a held-out part, otherwise "".
    """
    shared = _shared_prefix([path.rpartition("/")[2] for path in paths])
    parts = [_part_of_file(path, shared) for path in paths]
    held = next((p for p in (VALIDATION, TEST) if p in parts), None)
    if None in parts or TRAIN not in parts or held is None:
        return list(paths), {}, ""
    of = dict(zip(paths, parts, strict=True))
    if which == "eval":
        return [p for p in paths if of[p] == held], {}, held
    trained = [p for p in paths if of[p] in (TRAIN, UNLABELLED)]
    whys = dict.fromkeys((VALIDATION, TEST), "neither trained nor evaluated on")
    whys[held] = "held out for evaluation"
    counts = Counter(f"{part} files, {whys[part]}" for part in parts if part in whys)
    return trained, dict(counts), ""


def top_folders(paths: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return labels and class names from top-level folders, if every path has one and two differ.

    Levels that do not name classes are skipped: a single folder that holds everything, or folders
    that name parts. Images in parts that are unlabelled or have no inner folders get the label -1.
    """
    labelled = np.ones(len(paths), bool)
    pairs = list(map(_split_top, paths))
    while True:
        here = [pair for pair, has_label in zip(pairs, labelled, strict=True) if has_label]
        tops = {top for top, _ in here}
        parts = parts_of(tops)
        if tops and all(parts.values()):
            flat = {top for top, below in here if "/" not in below}
            flat |= {top for top in tops if parts[top] == UNLABELLED}
            labelled &= np.array([top in tops - flat for top, _ in pairs])
        elif not (len(tops) == 1 and "" not in tops and all("/" in below for _, below in here)):
            break
        pairs = [_split_top(below) for _, below in pairs]
    names = sorted(tops)
    if len(names) < 2 or "" in names:
        return None, ()
    number = {n: i for i, n in enumerate(names)}
    labels = [
        number[top] if has_label else -1
        for (top, _), has_label in zip(pairs, labelled, strict=True)
    ]
    return np.array(labels, np.int32), tuple(names)


def _part_of_file(path: str, shared: str) -> str | None:
    """Return the part that starts a file's name, with or without the prefix `shared`, or that of
    the nearest folder that names one.
    """
    *folders, name = path.split("/")
    words = [re.match(r"[A-Za-z]+", text) for text in (name, name.removeprefix(shared))]
    part_of_name = next((part for word in words if word and (part := part_of(word[0]))), None)
    return part_of_name or next((part for f in reversed(folders) if (part := part_of(f))), None)


def _shared_prefix(names: Sequence[str]) -> str:
    """Return the words that all of two or more names start with, up to "_", "-" or a space."""
    same = len(set(names)) < 2
    prefix = "" if same else os.path.commonprefix(names)  # noqa: RUF071 (of characters: no paths)
    return prefix[: max(prefix.rfind(mark) for mark in " _-") + 1]


def _distinct_tops(paths: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder that holds all paths, with "/", and the first folder of each below it."""
    above, pairs = "", [_split_top(path) for path in paths]
    while len({top for top, _ in pairs}) == 1 and pairs[0][0] and not part_of(pairs[0][0]):
        above += f"{pairs[0][0]}/"
        pairs = [_split_top(below) for _, below in pairs]
    return above, [top for top, _ in pairs]


def _split_top(path: str) -> tuple[str, str]:
    top, slash, rest = path.partition("/")
    return (top, rest) if slash else ("", path)
