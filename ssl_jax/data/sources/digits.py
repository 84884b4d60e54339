"""scikit-learn's handwritten digits: 1797 real 8x8 images in 10 classes, within the library."""

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources.base import ArraySource

TRAIN = 1437
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The images have no captions: sentences with the label's word stand in for them.
TEMPLATES = (
    "{}",
    "the digit {}",
    "the number {}",
    "a handwritten {}",
    "a picture of the digit {}",
    "somebody wrote a {}",
)


def load(path: str, split: str) -> ArraySource:
    """Load 1437 training or 360 evaluation images, (N, 8, 8, 1), of a fixed random split.

    Captions are made from the labels, one per template in `TEMPLATES`.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    if path:
        raise UserError(f"data 'digits:{path}': digits takes no path; use 'digits'")
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    rows = np.sort(order[:TRAIN] if split == "train" else order[TRAIN:])
    images = np.round(digits.images[rows] * (255 / 16)).astype(np.uint8)  # grey levels 0 to 16
    labels = digits.target[rows]
    texts = [tuple(t.format(word) for t in TEMPLATES) for word in WORDS]
    captions = [texts[label] for label in labels]
    return ArraySource("digits", images[..., None], labels, WORDS, captions)


def held_out(path: str) -> ArraySource:
    """Load the 360 evaluation images."""
    return load(path, "eval")


def absolute(path: str) -> str:
    """Return `path` unchanged: digits have none."""
    return path
