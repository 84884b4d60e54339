"""Corrupted test sets in folders, as those of ImageNet-C (1903.12261), and the numbers made of the
errors on them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import shifted_digits
from ssl_jax.evals.shifted_sets import CLEAN, ShiftedSet, open_shifted

# The errors of AlexNet, averaged over the severities (table 1 of the paper, and its release).
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
ALEXNET_CLEAN = 0.435
SEVERITIES = (1, 2, 3, 4, 5)


def open_corrupted(data: str, class_names: Sequence[str]) -> dict[str, dict[int, ShiftedSet]]:
    """Return the sets of `data` by corruption and severity; see `corrupted_specs`.

    Raises:
      UserError: there are none, classes that are not among `class_names`, or two severities of a
        corruption with different numbers of images.
    """
    sets = {
        kind: {severity: open_shifted(spec, class_names) for severity, spec in of.items()}
        for kind, of in corrupted_specs(data).items()
    }
    for kind, of in sets.items():
        sizes = {severity: len(shifted.source) for severity, shifted in of.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{count} of severity {s}" for s, count in sizes.items())
            raise UserError(
                f"corruptions.data: {kind} has {listed} images; expected as many of each"
            )
    return sets


def corrupted_specs(data: str) -> dict[str, dict[int, str]]:
    """Return corruption -> severity -> data set of a folder CORRUPTION/SEVERITY/CLASS/, or of
    "shifted_digits".

    Raises:
      UserError: no such folder, one without them, or a corruption of the name "clean".
    """
    if data == "shifted_digits":
        return {
            kind: {s: f"shifted_digits:{kind}-{s}" for s in shifted_digits.SEVERITIES}
            for kind in shifted_digits.KINDS
        }
    root = Path(data).expanduser()
    if not root.is_dir():
        raise UserError(f"corruptions.data: no folder {root}")
    sets: dict[str, dict[int, str]] = {}
    for folder in sorted(root.iterdir()):
        inside = [p for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
        severities = sorted((int(p.name), f"folder:{p}") for p in inside if p.name.isdecimal())
        if severities and folder.name == CLEAN:
            raise UserError(
                f"corruptions.data: {folder} is no corruption: the error on the evaluation images "
                f"is called {CLEAN!r}; rename it"
            )
        if severities:
            sets[folder.name] = dict(severities)
    if not sets:
        raise UserError(f"corruptions.data: {root} holds no folder CORRUPTION/SEVERITY/CLASS")
    return sets


def check_complete(sets: Mapping[str, Mapping[int, ShiftedSet]]) -> None:
    """Check that all corruptions of the published errors are there, at all severities.

    Raises:
      UserError: one is missing.
    """
    for kind in ALEXNET:
        severities = tuple(sets.get(kind, ()))
        if severities != SEVERITIES:
            listed = ", ".join(map(str, severities)) or "none"
            raise UserError(
                f"corruptions.data: baseline=alexnet needs {kind} at the severities 1 to 5, got "
                f"{listed}"
            )


def summary(errors: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, float]:
    """Compute the numbers of a classifier from its errors and a baseline's.

    `mce` is the mean ratio of the errors to the baseline's. `relative_mce` is the mean ratio of the
    increases of the error by corruption to the baseline's increases, without the corruptions that
    do not increase the baseline's error. The paper multiplies both by 100.

    Args:
      errors: corruption -> error, "clean" -> error on clean images.
      baseline: the same of the baseline; corruptions that it lacks are in none of the means.
    """
    clean, base_clean = errors[CLEAN], baseline[CLEAN]
    pairs = [
        (e, baseline[kind]) for kind, e in errors.items() if kind in baseline and kind != CLEAN
    ]
    ratios = [e / b for e, b in pairs if b > 0]
    increase_ratios = [(e - clean) / (b - base_clean) for e, b in pairs if b > base_clean]
    numbers = {f"corruptions_{kind}_error": e for kind, e in errors.items()}
    numbers["corruptions_error"] = float(np.mean([e for e, _ in pairs]))
    if ratios:
        numbers["corruptions_mce"] = float(np.mean(ratios))
    if increase_ratios:
        numbers["corruptions_relative_mce"] = float(np.mean(increase_ratios))
    return numbers
