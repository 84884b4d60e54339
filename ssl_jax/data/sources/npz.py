"""`npz:/path.npz`: images, and optionally labels, as NumPy arrays in one file."""

import contextlib
import os
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.label_tables import set_table
from ssl_jax.data.labels import number_labels, number_texts
from ssl_jax.data.sources.base import ArraySource

IMAGE_KEYS = ("image", "images", "x")
LABEL_KEYS = ("label", "labels", "y")
MASK_KEYS = ("mask", "masks")
# Memory of this machine in bytes.
_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load(path: str, split: str) -> ArraySource:
    """Load images (N, H, W) or (N, H, W, C) at `IMAGE_KEYS`, labels (N,) at `LABEL_KEYS` and
    masks (N, H, W), bools or 8-bit numbers, at `MASK_KEYS`. Labels (N, C) are several per image: 1
    for each class that it shows, 0 for the others, -1 for those that are not known.

    Raises:
      UserError: no such file, not an npz file, or arrays of the wrong name, dtype or shape.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"npz:{path}: no such file")
    if file.suffix == ".npy":
        raise UserError(
            f"npz:{path}: one array, not an .npz file; np.savez(FILE, images=...) writes one"
        )
    try:
        with np.load(file, allow_pickle=False) as content:
            names_in_file = list(content.files)
            size = sum(part.file_size for part in content.zip.infolist())  # decompressed
            if size > _MEMORY:
                raise ValueError(f"arrays of {size >> 30} GiB, more than this machine's memory")
            images = _first(content, IMAGE_KEYS)
            labels = _first(content, LABEL_KEYS)
            masks = _masks(content)
    except Exception as e:  # NumPy and zipfile raise nearly any type on corrupt bytes
        line = " ".join(str(e).split()) or type(e).__name__
        raise UserError(f"npz:{path}: not a readable .npz file of plain arrays ({line})") from None
    if images is None:
        raise UserError(
            f"npz:{path}: no array of images; expected one named {' or '.join(IMAGE_KEYS)}, "
            f"got {', '.join(names_in_file) or 'nothing'}"
        )
    names: tuple[str, ...] = ()
    images = _check_images(images, path)
    if masks is not None and len(masks) != len(images):
        raise UserError(
            f"npz:{path}: {len(masks)} masks of {len(images)} images; give one for each"
        )
    table = labels if labels is not None and labels.ndim == 2 and labels.shape[1] > 1 else None
    if table is not None:
        labels = None
    if labels is not None:
        labels, names = _number(_check_labels(labels, len(images), path), f"npz:{path}")
    source = ArraySource(f"npz:{path}", images, labels, names, masks=masks)
    if table is not None:
        set_table(source, table, tuple(map(str, range(table.shape[1]))))
    return source


def _first(content: np.lib.npyio.NpzFile, keys: tuple[str, ...]) -> np.ndarray | None:
    return next((content[k] for k in keys if k in content.files), None)


def _masks(content: np.lib.npyio.NpzFile) -> np.ndarray | None:
    """Read the masks; None if the array of that name holds none, which no other method minds."""
    with contextlib.suppress(ValueError):  # pickled objects
        masks = _first(content, MASK_KEYS)
        if masks is not None and masks.ndim == 3 and masks.dtype in (np.uint8, np.bool_):
            return masks.astype(np.uint8)
    return None


def _check_images(images: np.ndarray, path: str) -> np.ndarray:
    """Check images and return them as (N, H, W, C) numbers."""
    if images.dtype == np.bool_:
        images = images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind not in "uif":
        raise UserError(
            f"npz:{path}: images are {images.dtype}; expected numbers, preferably uint8"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(
            f"npz:{path}: images have shape {images.shape}; expected (N, H, W) or (N, H, W, C)"
        )
    _, first, second, last = images.shape
    if first < min(second, last) and last > 4:
        raise UserError(
            f"npz:{path}: images of shape {images.shape} look channels-first (C {first}, "
            f"H {second}, W {last}); expected (N, H, W, C): use images.transpose(0, 2, 3, 1)"
        )
    return images


def _check_labels(labels: np.ndarray, length: int, path: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (length,):
        raise UserError(
            f"npz:{path}: expected labels of shape ({length},), one per image, got {labels.shape}"
        )
    if labels.dtype.kind not in "iubfU":
        raise UserError(
            f"npz:{path}: labels are {labels.dtype}; expected whole numbers (NaN or -1 for none) "
            "or names"
        )
    return labels


def _number(labels: np.ndarray, name: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if labels.dtype.kind == "U":
        return number_texts(labels.tolist(), name)
    return number_labels(labels, name)
