"""Crops of the two photographs that come with scikit-learn: colour images without a download."""

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources.base import ArraySource

EMBEDDED = True  # the data come with a library
SIDE, STRIDE = 32, 16  # of a crop, and between crops, in pixels
BLOCK = 64  # side of a block: crops stay inside one, so the two parts share no pixel
REGION = (3, 2)  # blocks of a region, down and across
NAMES = ("temple", "flower")  # the images, in the library's order


def load(path: str, split: str) -> ArraySource:
    """Load 900 training or 180 evaluation crops, (N, 32, 32, 3).

    A label is an image and one of its 2 x 5 regions of 3 x 2 blocks. The evaluation part has one
    block of each region, the training part the other five.
    """
    from sklearn.datasets import load_sample_images  # takes a second to import

    if path:
        raise UserError(f"data 'photos:{path}': photos takes no path; use 'photos'")
    crops: list[np.ndarray] = []
    labels: list[int] = []
    classes: list[str] = []
    for name, photo in zip(NAMES, load_sample_images().images, strict=True):
        rows, columns = (n // BLOCK // r for n, r in zip(photo.shape, REGION, strict=False))
        for region in np.ndindex(rows, columns):
            for block in np.ndindex(*REGION):
                held_out = sum(n % r == b for n, r, b in zip(region, REGION, block, strict=True))
                if (held_out == len(REGION)) == (split == "eval"):
                    y, x = (
                        BLOCK * (n * r + b) for n, r, b in zip(region, REGION, block, strict=True)
                    )
                    own = _crops(photo[y : y + BLOCK, x : x + BLOCK])
                    crops += own
                    labels += [len(classes)] * len(own)
            classes.append(f"{name} {region[0] + 1}-{region[1] + 1}")
    return ArraySource("photos", np.stack(crops), np.array(labels), classes)


def held_out(path: str) -> ArraySource:
    """Load the 180 evaluation crops."""
    return load(path, "eval")


def absolute(path: str) -> str:
    """Return `path` unchanged: photos have none."""
    return path


def _crops(block: np.ndarray) -> list[np.ndarray]:
    corners = range(0, BLOCK - SIDE + 1, STRIDE)
    return [block[y : y + SIDE, x : x + SIDE] for y in corners for x in corners]
