"""Masks of what moves in a clip: video segmentation by non-local consensus voting (Faktor and
Irani, BMVC 2014) in the form of Pathak et al. 2017 (1612.06370), "uNLC", without any learned part.

Regions (superpixels) of all frames vote: first for what moves unlike the rest of its frame, then
repeatedly for the mean vote of the regions that look alike in the frames around. Constants are
those of the authors' videoseg (src/run_full.py, src/nlc.py). Its last step, a dense conditional
random field, and its appearance saliency for clips without dominant motion are left out: such a
clip has no masks.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from scipy import sparse

from ssl_jax.data.masks import IGNORED

SIDE = 240  # 650 in videoseg
FLOW_SIDE = 100  # of the frames whose flow is computed, in pixels
FLOW_RADIUS = 3  # frames before and after, to each of which there is a flow
BORDER = 0.125  # share of the shorter side at the border, where flow is unreliable: not salient
DOMINANT = 0.5  # least share of the frames with a dominant motion
SUPERPIXELS, PATCH, BINS = 400, 15, 20  # of a frame; side of a region's patch; bins of a colour
ROUNDS = 50
VARIANCE = 0.3  # of the weights: 0.1 in videoseg, whose descriptors are closer to each other
FOREGROUND, BACKGROUND = 0.5, 0.3  # votes; in between it is not known

Flow = Callable[[int, int], np.ndarray]  # of one frame to another, (FLOW_SIDE, FLOW_SIDE, 2)


def segment(frames: np.ndarray, flow: Flow | None = None, side: int = SIDE) -> np.ndarray | None:
    """Segment the frames (n, H, W, 3) uint8 of one shot: masks (n, H, W) uint8, 1 for what moves, 0
    for the rest, `IGNORED` where the votes do not tell; None if too few frames have a dominant
    motion, from which others could differ.

    Args:
      flow: by default DIS flow of OpenCV (Kroeger et al. 2016) in place of the authors' pyflow.
      side: of the frames that are divided, their longer side in pixels.
    """
    count, height, width, _ = frames.shape
    salience = saliency(count, flow or dense_flow(frames))
    if salience is None:
        return None
    factor = side / max(height, width)
    sides = round(width * factor), round(height * factor)
    resized = [cv2.resize(f, sides, interpolation=cv2.INTER_AREA) for f in frames]
    edge = int(min(sides) * BORDER)
    inner = np.zeros(sides[::-1])
    inner[edge : sides[1] - edge, edge : sides[0] - edge] = 1
    salience = np.stack([cv2.resize(s, sides) for s in salience]) * inner
    regions = number([superpixels(frame, SUPERPIXELS) for frame in resized])
    frame_of = np.repeat(np.arange(count), [r.max() - r.min() + 1 for r in regions])
    features = np.concatenate([describe(f, r) for f, r in zip(resized, regions, strict=True)])
    votes = mean_of(regions, salience)
    if not votes.any():
        return None
    votes = consensus(votes, transition(features, frame_of, variance=VARIANCE), frame_of, ROUNDS)
    masks = [mask_of(cv2.resize(v, (width, height))) for v in votes[regions]]
    return np.stack(masks)


def mask_of(votes: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) uint8 of votes (H, W): see `segment`."""
    moving = votes > FOREGROUND
    mask = np.where(votes > BACKGROUND, IGNORED, 0).astype(np.uint8)
    mask[moving & large_blobs(moving)] = 1
    return mask


def dense_flow(frames: np.ndarray) -> Flow:
    """Return the optical flow between the frames (n, H, W, 3), at the size of `FLOW_SIDE`."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(0)
    sides = (FLOW_SIDE, FLOW_SIDE)
    small = [
        cv2.cvtColor(cv2.resize(f, sides, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        for f in frames
    ]
    still = np.zeros((*sides, 2), np.float32)  # to start from
    return lambda i, j: method.calc(small[i], small[j], still.copy())


def saliency(count: int, flow: Flow) -> np.ndarray | None:
    """Compute how much each pixel of `count` frames moves unlike its frame, the mean over the flows
    with a dominant motion: (n, h, w), at most 1; None if too few frames have any.
    """
    result: list[np.ndarray | None] = []
    for i in range(count):
        others = range(max(i - FLOW_RADIUS, 0), min(i + FLOW_RADIUS + 1, count))
        each = [deviation(flow(i, j)) for j in others if j != i]
        dominant = [d for d in each if d is not None]
        result.append(np.mean(dominant, axis=0) if dominant else None)
    present = [s for s in result if s is not None]
    if not present or len(present) < DOMINANT * count:
        return None
    salience = np.stack([np.zeros_like(present[0]) if s is None else s for s in result])
    return salience / max(salience.max(), np.finfo(float).tiny)


def deviation(
    flow: np.ndarray, still: float = 1.0, share: float = 0.75, bins: int = 20, patch: int = 5
) -> np.ndarray | None:
    """Compute the squared deviation of each pixel's motion from the dominant one, averaged over
    patches: (H, W); None if no motion dominates.

    A frame whose median speed is below `still` pixels stands: a pixel deviates by its speed. In
    others, one of `bins` directions has to have more than `share` of all speed: a pixel deviates by
    the angle to the bin's centre. A pan to the left lies on the border of two bins, so it dominates
    only with luck, as in the authors' code.

    Args:
      flow: (H, W, 2), (x, y).
    """
    speed = np.hypot(flow[..., 0], flow[..., 1])
    if np.median(speed) < still:
        squared = np.square(speed)
    else:
        angle = np.arctan2(flow[..., 1], flow[..., 0])
        weights, edges = np.histogram(angle, bins, (-np.pi, np.pi), weights=speed)
        best = weights.argmax()
        if weights[best] <= share * weights.sum():
            return None
        apart = angle - (edges[best] + edges[best + 1]) / 2
        squared = np.square((apart + np.pi) % (2 * np.pi) - np.pi)
    mean: np.ndarray = cv2.blur(squared.astype(np.float64), 2 * (patch,), borderType=_SYMMETRIC)
    return mean


_SYMMETRIC = cv2.BORDER_REFLECT


def superpixels(frame: np.ndarray, count: int, compactness: float = 10.0) -> np.ndarray:
    """Divide a frame (H, W, 3) uint8 into about `count` regions of similar colour, (H, W) int from
    0 on: five steps of k-means within 3 x 3 cells (SLIC, Achanta et al. 2012).
    """
    height, width, _ = frame.shape
    step = max(np.sqrt(height * width / count), 1.0)
    rows, columns = max(int(height / step), 1), max(int(width / step), 1)
    y, x = np.mgrid[:height, :width]
    lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    place = (compactness / step * np.stack([y, x], -1)).astype(np.float32)
    points = np.concatenate([cv2.GaussianBlur(lab, (0, 0), step / 8), place], -1).reshape(-1, 5)
    row, column = (y * rows // height).ravel(), (x * columns // width).ravel()
    region = row * columns + column
    for _ in range(5):
        size = np.maximum(np.bincount(region, minlength=rows * columns), 1)
        sums = [np.bincount(region, p, rows * columns) for p in points.T]
        centre = (np.stack(sums, -1) / size[:, None]).astype(np.float32)
        least = np.full(len(points), np.inf, np.float32)
        for dy, dx in np.ndindex(3, 3):
            near_row = np.clip(row + dy - 1, 0, rows - 1)
            near = near_row * columns + np.clip(column + dx - 1, 0, columns - 1)
            distance = np.square(points - centre[near]).sum(-1)
            region = np.where(distance < least, near, region)
            least = np.minimum(distance, least)
    return np.unique(region, return_inverse=True)[1].reshape(height, width)


def number(regions: Sequence[np.ndarray]) -> np.ndarray:
    """Number the regions of all frames, each (H, W) from 0 on, consecutively: (n, H, W)."""
    first = np.cumsum([0, *(r.max() + 1 for r in regions[:-1])])
    return np.stack(regions) + first[:, None, None]


def mean_of(regions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean (k,) of the values of the pixels in each region."""
    sums = np.bincount(regions.ravel(), values.ravel())
    return sums / np.bincount(regions.ravel())


def describe(frame: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Describe each region (k, 176) by the patch around its middle: gradients in 3 x 3 cells of 6
    directions, histograms of R, G, B, L, a and b, and the place.

    The authors' `color_hist` writes each histogram one place after the last, over it; here all six
    stand side by side.
    """
    height, width = regions.shape
    half = PATCH // 2
    first = regions.min()
    ids = regions.ravel() - first
    count = np.bincount(ids)
    y, x = np.mgrid[:height, :width]
    middle = [np.bincount(ids, p.ravel()) / count for p in (y, x)]
    corner = [np.round(m).astype(int)[:, None] for m in middle]
    window = np.arange(PATCH)
    at = np.s_[(corner[0] + window)[:, :, None], (corner[1] + window)[:, None, :]]
    padded = cv2.copyMakeBorder(frame, half, half, half, half, cv2.BORDER_REFLECT)
    colours = np.concatenate([padded, cv2.cvtColor(padded, cv2.COLOR_RGB2LAB)], -1)
    bins = (colours.astype(int) * BINS // 256)[at]  # (k, PATCH, PATCH, 6)
    histogram = _counts(bins + BINS * np.arange(6), 6 * BINS) / PATCH**2
    gray = cv2.cvtColor(padded, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    dy, dx = np.gradient(gray)
    direction = (np.arctan2(dy, dx) % np.pi / np.pi * 6).astype(int) % 6
    cell = window * 3 // PATCH
    cells = 6 * (3 * cell[:, None] + cell)
    hog = _counts(cells + direction[at], 54, np.hypot(dy, dx)[at])
    hog /= np.linalg.norm(hog, axis=1, keepdims=True) + 1e-5
    place = np.stack([middle[0] / height, middle[1] / width], 1)
    return np.concatenate([hog, histogram, place], 1)


def transition(
    features: np.ndarray,
    frame_of: np.ndarray,
    radius: int = 15,
    neighbours: int = 2,
    variance: float = 0.1,
) -> sparse.csr_array:
    """Compute the weights (k, k) of the votes: rows sum to 1, and are not 0 for the nearest regions
    in the `radius` frames before and after, `neighbours` per frame on average.

    The weight is `exp(-d^2 / variance)`. In the authors' code another region at distance 0 has no
    weight; here it has that of the region itself, 1.
    """
    count = neighbours * (2 * radius + 1)
    rows, columns, weights = [], [], []
    for frame in range(frame_of[-1] + 1):
        own = np.flatnonzero(frame_of == frame)
        others = np.flatnonzero(np.abs(frame_of - frame) <= radius)
        a, b = features[own], features[others]
        squared = np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1)
        most = min(count, len(others))
        near = np.argpartition(squared, most - 1, axis=1)[:, :most]
        squared = np.maximum(np.take_along_axis(squared, near, 1), 0)
        rows.append(np.repeat(own, most))
        columns.append(others[near].ravel())
        weights.append(np.exp(-squared / variance).ravel())
    row, column = np.concatenate(rows), np.concatenate(columns)
    matrix = sparse.csr_array((np.concatenate(weights), (row, column)), (len(features),) * 2)
    return sparse.csr_array(sparse.diags_array(1 / matrix.sum(1)) @ matrix)


def consensus(
    votes: np.ndarray, weights: sparse.csr_array, frame_of: np.ndarray, rounds: int
) -> np.ndarray:
    """Replace the votes (k,) by the weighted mean of others `rounds` times; each time the largest
    vote of each frame becomes 1.
    """
    starts = np.flatnonzero(np.diff(frame_of, prepend=-1))
    for _ in range(rounds):
        votes = weights @ votes
        most = np.maximum.reduceat(votes, starts)
        votes = votes / np.where(most > 0, most, 1)[frame_of]
    return votes


def large_blobs(mask: np.ndarray, share: float = 0.6, least: int = 25) -> np.ndarray:
    """Keep the connected parts (4 neighbours) of a mask (H, W) bool with at least `share` of the
    pixels of the largest, and at least `least` pixels.
    """
    count, blobs = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    size = np.bincount(blobs.ravel(), minlength=count)
    size[0] = 0
    large: np.ndarray = (size >= max(share * size.max(), least))[blobs]
    return large


def _counts(bins: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Histogram `bins` (k, ...) row by row: (k, size)."""
    rows = np.arange(len(bins)).reshape(-1, *(1,) * (bins.ndim - 1))
    flat = (bins + size * rows).ravel()
    total = np.bincount(flat, None if weights is None else weights.ravel(), size * len(bins))
    return total.reshape(len(bins), size).astype(np.float64)
