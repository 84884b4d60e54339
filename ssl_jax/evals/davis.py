"""DAVIS's measures of masks: region similarity J and boundary accuracy F (Perazzi et al., CVPR
2016; constants of the official davis2017-evaluation).
"""

import math

import cv2
import numpy as np

from ssl_jax.losses.shapes import check_shapes

BOUND = 0.008  # distance at which boundaries match, as a share of the diagonal


def region_similarity(predicted: np.ndarray, true: np.ndarray) -> float:
    """J, intersection over union of two masks (H, W) of bool; 1 if both are empty."""
    check_shapes("region_similarity: predicted, true (H, W)", predicted, true)
    union = np.count_nonzero(predicted | true)
    return np.count_nonzero(predicted & true) / union if union else 1.0


def boundary_accuracy(predicted: np.ndarray, true: np.ndarray, bound: float = BOUND) -> float:
    """F, harmonic mean of the shares of each mask's boundary that is near the other's.

    Args:
      predicted, true: (H, W) bool.
      bound: largest distance, as a share of the diagonal, rounded up to pixels; from 1 on, in
        pixels.

    Returns:
      1 if neither has a boundary, 0 if only one of them has one.
    """
    check_shapes("boundary_accuracy: predicted, true (H, W)", predicted, true)
    radius = math.ceil(bound if bound >= 1 else bound * math.hypot(*true.shape))
    ours, theirs = outline(predicted), outline(true)
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = np.count_nonzero(ours & _near(theirs, radius)) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & _near(ours, radius)) / np.count_nonzero(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline(mask: np.ndarray) -> np.ndarray:
    """Mark the pixels (H, W) that differ from the one to the right, below, or both; the mask is
    extended by its edge values.
    """
    check_shapes("outline: mask (H, W)", mask)
    after = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = after[:-1, 1:], after[1:, :-1], after[1:, 1:]
    return (mask != right) | (mask != below) | (mask != across)


def _near(mask: np.ndarray, radius: int) -> np.ndarray:
    """Mark the pixels within `radius` of a set pixel."""
    offset = np.arange(-radius, radius + 1) ** 2
    disk = (offset[:, None] + offset <= radius**2).astype(np.uint8)
    return cv2.dilate(mask.astype(np.uint8), disk).astype(bool)
