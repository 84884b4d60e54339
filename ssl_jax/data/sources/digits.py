"""scikit-learn's handwritten digits: 1797 real 8x8 images in 10 classes, within the library.

`digits:photos` shows them before grey crops of its two photographs, with masks of the digits;
`digits:inverted` in black on white.
"""

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.decode import averaged
from ssl_jax.data.sources import photos
from ssl_jax.data.sources.base import ArraySource

EMBEDDED = True  # the data come with a library
TRAIN = 1437
SIDE = 8  # pixels
DARKER = 0.7  # factor of the photographs' levels: a digit's strokes are white
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

    Captions are made from the labels, one per template in `TEMPLATES`. The masks are 1 where a
    digit is not black. With the path "photos" those pixels lie before a crop of `photos`, chosen
    at random for each image from the same part of them; with the path "inverted" white is black.
    """
    from sklearn.datasets import load_digits  # takes a second to import

    if path not in ("", "photos", "inverted"):
        raise UserError(
            f"data 'digits:{path}': expected 'digits', 'digits:photos' or 'digits:inverted'"
        )
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    rows = np.sort(order[:TRAIN] if split == "train" else order[TRAIN:])
    images = np.round(digits.images[rows] * (255 / 16)).astype(np.uint8)  # grey levels 0 to 16
    labels = digits.target[rows]
    texts = [tuple(t.format(word) for t in TEMPLATES) for word in WORDS]
    captions = [texts[label] for label in labels]
    masks, name = (images > 0).astype(np.uint8), "digits"
    if path == "inverted":
        images, name = 255 - images, "digits:inverted"
    elif path:
        images, name = np.where(masks > 0, images, backgrounds(len(images), split)), "digits:photos"
    return ArraySource(name, images[..., None], labels, WORDS, captions, masks)


def backgrounds(count: int, split: str) -> np.ndarray:
    """Draw crops of `photos`, grey and darkened, (count, 8, 8) uint8; the same ones each time."""
    crops = photos.load("", split).arrays
    chosen = np.random.RandomState(1).randint(len(crops), size=count)
    small = np.stack([averaged(crops[i], SIDE, SIDE).mean(-1) for i in chosen])
    return np.round(DARKER * small).astype(np.uint8)


def held_out(path: str) -> ArraySource:
    """Load the 360 evaluation images."""
    return load(path, "eval")


def absolute(path: str) -> str:
    """Return `path` unchanged: it names no file."""
    return path
