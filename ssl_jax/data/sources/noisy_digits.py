"""The digits with several labels each, some of them wrong: a small stand-in for JFT-300M.

JFT's labels come from an automatic system: 1.26 per image, of which a fifth is wrong and an unknown
number missing, of classes in a hierarchy (1707.02968, section 3). Here the classes are the ten
digits, odd and even, small (0 to 4) and large. An image has the label of its digit, which a fifth
of the images have another one of; a quarter also has one of the true wider classes. The hierarchy
fills in those above the digit's label. The draws are a function of the image's index.

`noisy_digits:0.5` has another share of wrong digits, here a half; images whose label is wrong at
one share are so at every larger one.
"""

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.draws import uniform
from ssl_jax.data.label_sets import LabelSets
from ssl_jax.data.sources import digits
from ssl_jax.data.sources.base import ArraySource

EMBEDDED = True  # the data come with a library
WRONG, FURTHER = 0.2, 0.25  # shares of the images: with a wrong digit, with a second label
SEED = 0
NAMES = (*digits.WORDS, "even", "odd", "small", "large")
EVEN, SMALL = 10, 12  # of the class numbers; odd and large follow


def load(path: str, split: str) -> ArraySource:
    """Load the images of `digits`; `labels` are the true digits, for evaluations alone."""
    wrong = _share(path)
    source = digits.load("", split)
    assert source.labels is not None
    source.name = f"noisy_digits:{path}" if path else "noisy_digits"
    source.class_names, source.captions = NAMES, None
    sets = noisy(source.labels, SEED, wrong)
    source.label_sets = sets.closed(wider(np.arange(10)).reshape(-1, 2), len(NAMES))
    return source


def _share(path: str) -> float:
    """Return the share of wrong digits that a path names."""
    try:
        share = float(path or WRONG)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UserError(
            f"data 'noisy_digits:{path}': expected 'noisy_digits', or a share of wrong labels from "
            "0 to 1 as 'noisy_digits:0.5'"
        )
    return share


def wider(digit: np.ndarray) -> np.ndarray:
    """Return the pairs (digit, wider class) of digits (n,): (n, 2, 2)."""
    above = np.stack([EVEN + digit % 2, SMALL + digit // 5], axis=-1)
    return np.stack([np.broadcast_to(digit[:, None], above.shape), above], axis=-1)


def noisy(truth: np.ndarray, seed: int, wrong: float = WRONG) -> LabelSets:
    """Draw the labels of images whose digits are `truth` (N,), without those of the hierarchy; a
    share `wrong` of them has another digit's.
    """
    index = np.arange(len(truth))
    draws = uniform(seed, index, shape=(4,))
    other = (truth + 1 + np.floor(9 * draws[:, 1]).astype(np.int64)) % 10
    digit = np.where(draws[:, 0] < wrong, other, truth)
    second = wider(truth)[index, (draws[:, 3] < 0.5).astype(int), 1]
    has_second = draws[:, 2] < FURTHER
    rows = np.concatenate([index, index[has_second]])
    return LabelSets(rows, np.concatenate([digit, second[has_second]]), len(truth))


def held_out(path: str) -> ArraySource:
    """Load the evaluation images."""
    return load(path, "eval")


def absolute(path: str) -> str:
    """Return `path` unchanged: it names no file."""
    return path
