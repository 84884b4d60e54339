"""Folders that name a part of a data set, `train`, `Validation`, `test2017`, `unlabeled`, and no
class: which part is trained on, and which are held out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

TRAIN, VALIDATION, TEST, UNLABELLED = "train", "validation", "test", "unlabelled"
_WORDS = {
    TRAIN: "train|training",
    VALIDATION: "val|valid|validation|eval|evaluation|dev|holdout|held[ _-]?out",
    TEST: "test|testing",
    UNLABELLED: "unlabell?ed|unsup|unsupervised",
}
_ANY = "|".join(f"(?P<{part}>{words})" for part, words in _WORDS.items())
_MORE = r"(?:[ _-]*(?:set|data|split|images?|imgs?|\d+))*"  # train2017, val_images, test-set
_NAME = re.compile(rf"(?:{_ANY}){_MORE}", re.IGNORECASE)


class Choice(NamedTuple):
    """Rows of a list of paths.

    Attributes:
      rows: their places in the list.
      left_out: reason -> number of the others.
      part: the folder of what is held out, if it is that.
    """

    rows: np.ndarray
    left_out: dict[str, int]
    part: str


def part_of(folder: str) -> str | None:
    """The part that a folder's name means; None for any other name."""
    match = _NAME.fullmatch(folder)
    return match.lastgroup if match else None


def choose(paths: Sequence[str], part: str, which: str) -> Choice:
    """The images of a folder, or those that are trained on and those that are held out, where it
    holds both: where the first folders that tell paths apart all name parts of a data set.

    Held out are the validation images, or without any the test images, if they have labels where
    the training images do. Unlabelled images are trained on.

    Args:
      part: a folder, "." for all images; "" applies the rule above.
      which: "train", or "eval" for what is held out; all images where nothing is.
    """
    everything = np.arange(len(paths))
    if part:
        below = f"{part.strip('/')}/"
        inside = [i for i, p in enumerate(paths) if part == "." or f"{p}/".startswith(below)]
        return Choice(np.array(inside, np.int64), {}, "")
    above, tops = _distinct_tops(paths)
    parts = {top: part_of(top) for top in sorted(set(tops))}
    labels, _ = top_folders(paths)
    of = np.array([parts[top] or "" for top in tops])
    known = np.ones(len(paths), bool) if labels is None else labels >= 0
    held = next((p for p in (VALIDATION, TEST) if (known & (of == p)).any()), None)
    if None in parts.values() or TRAIN not in parts.values() or held is None:
        return Choice(everything, {}, "")
    folder = above + next(top for top, meant in parts.items() if meant == held)
    if which == "eval":
        return Choice(np.flatnonzero(of == held), {}, folder)
    trained = (of == TRAIN) | (of == UNLABELLED)
    left_out = {}
    for top, meant in parts.items():
        if meant not in (TRAIN, UNLABELLED):
            why = "held out for evaluation" if meant == held else "neither trained nor evaluated on"
            left_out[f"in {above}{top}/, {why}"] = tops.count(top)
    return Choice(np.flatnonzero(trained), left_out, "")


def choose_files(paths: Sequence[str], which: str) -> tuple[list[str], dict[str, int], str]:
    """`choose` for the files of a folder of tables or records, whose names (`train-00000.parquet`)
    or folders name parts.

    Returns:
      The files, reason -> number of the others, and the part of what is held out, if it is that.
    """
    parts = [_part_of_file(path) for path in paths]
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
    """Labels and class names: top-level folders, if every path has one and two of them differ.

    A level that says nothing of the class is passed over: one folder that holds all, or folders
    that name parts. Of those, the images of unlabelled ones, and of ones without folders within,
    have the label -1.
    """
    labelled = np.ones(len(paths), bool)
    pairs = list(map(_split_top, paths))
    while True:
        here = [pair for pair, known in zip(pairs, labelled, strict=True) if known]
        tops = {top for top, _ in here}
        parts = {top: part_of(top) for top in tops}
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
    labels = [number[top] if known else -1 for (top, _), known in zip(pairs, labelled, strict=True)]
    return np.array(labels, np.int32), tuple(names)


def _part_of_file(path: str) -> str | None:
    """The part that a file's name begins with, or the nearest folder that names one."""
    *folders, name = path.split("/")
    begin = re.match(r"[A-Za-z]+", name)
    named = part_of(begin[0]) if begin else None
    return named or next((part for f in reversed(folders) if (part := part_of(f))), None)


def _distinct_tops(paths: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all paths lie in, with "/", and the first folder of each below it."""
    above, pairs = "", [_split_top(path) for path in paths]
    while len({top for top, _ in pairs}) == 1 and pairs[0][0] and not part_of(pairs[0][0]):
        above += f"{pairs[0][0]}/"
        pairs = [_split_top(below) for _, below in pairs]
    return above, [top for top, _ in pairs]


def _split_top(path: str) -> tuple[str, str]:
    top, slash, rest = path.partition("/")
    return (top, rest) if slash else ("", path)
