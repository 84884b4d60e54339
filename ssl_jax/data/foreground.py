"""Masks of the foreground, found without training or labels: contrast to the border, then GrabCut.

They suit images of one object that stands clear of the border. docs/data.md has their accuracy.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.files import replacing
from ssl_jax.data.decode import averaged
from ssl_jax.data.masks import nearest
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources.base import Source

SIDE = 256  # pixels of the longer side that the mask is computed at
_AHEAD = 64  # images at once
_ROUNDS = 3  # of GrabCut
_CERTAIN = 0.05  # share of a side at the border that is background for certain
_CENTRE = 0.35  # deviation of the prior around the centre, in sides


def foreground(image: np.ndarray) -> np.ndarray:
    """Compute the mask (H, W) uint8 of an image (H, W, 3) uint8: 255 in the foreground, else 0.

    A pixel's contrast is its distance in Lab from the nearest of four colours of the border, times
    a Gaussian around the centre. GrabCut (Rother et al. 2004) then starts from the pixels above
    Otsu's threshold. The mask is empty if nothing stands out.
    """
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    h, w = (max(1, round(n * scale)) for n in (height, width))
    small = np.ascontiguousarray(averaged(image, h, w))
    inside = np.zeros((h, w), bool)
    edge = [max(1, round(_CERTAIN * n)) for n in (h, w)]
    inside[edge[0] : h - edge[0], edge[1] : w - edge[1]] = True
    if not inside.any():
        return np.zeros((height, width), np.uint8)
    contrast = _contrast(small, inside)
    threshold, _ = cv2.threshold(contrast, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    marks = np.where(contrast > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[~inside] = cv2.GC_BGD
    if (marks == cv2.GC_PR_FGD).any():
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)  # of this thread; GrabCut's clusters start at random
        cv2.grabCut(small, marks, (0, 0, 0, 0), *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    result = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    return nearest(255 * result.astype(np.uint8), height, width)


def _contrast(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Compute the contrast (H, W) uint8 to the border, the pixels that are not `inside`."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    # Four clusters, which start as the top, left, bottom and right parts of the border.
    y, x = (2 * (n + 0.5) / (n.max() + 1) - 1 for n in (y, x))
    part = np.where(abs(y) > abs(x), np.where(y < 0, 0, 2), np.where(x < 0, 1, 3))
    border, labels = lab[~inside], part[~inside].astype(np.int32)[:, None]
    stop = (cv2.TERM_CRITERIA_MAX_ITER | cv2.TERM_CRITERIA_EPS, 10, 1.0)
    centres = cv2.kmeans(border, 4, labels, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)[2]
    distance = np.linalg.norm(lab[:, :, None] - centres, axis=-1).min(-1)
    prior = np.exp(-(x**2 + y**2) / (2 * (2 * _CENTRE) ** 2))
    contrast = distance * prior
    return np.round(255 * contrast / max(contrast.max(), 1e-6)).astype(np.uint8)


def check_named(source: Source) -> None:
    """Check that the images have names, which those of their masks follow.

    Raises:
      UserError: they have none.
    """
    if source.names is None:
        raise UserError(f"masks: the images of {source.name} have no names; use folder:/path")


def write_masks(
    source: Source, folder: Path, progress: Callable[[int], None] = lambda count: None
) -> int:
    """Write the mask of each image NAME.* of `source` to `folder`/NAME.png; existing ones are kept.

    Returns:
      The number of images that have no mask because they cannot be decoded.

    Raises:
      UserError: images without names, or a folder that cannot be written.
    """
    check_named(source)
    assert source.names is not None
    paths = [folder / Path(name).with_suffix(".png") for name in source.names]
    reader = Reader(source, channels=3, max_bad_fraction=1.0)

    def write(row: int) -> None:
        image = None if paths[row].is_file() else reader.try_pixels(row)
        if image is None:
            return
        paths[row].parent.mkdir(parents=True, exist_ok=True)
        with replacing(paths[row]) as temporary:
            temporary.write_bytes(cv2.imencode(".png", foreground(image))[1].tobytes())

    try:
        with ThreadPoolExecutor() as pool:
            for first in range(0, len(paths), _AHEAD):
                some = range(first, min(first + _AHEAD, len(paths)))
                list(pool.map(write, some))
                progress(some.stop)
    except OSError as e:
        raise UserError(f"cannot write to --masks={folder}: {e.strerror or e}") from None
    return len(reader.bad)
