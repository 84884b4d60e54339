"""Errors of predicted depths (Eigen et al., 1406.2283) and normals (Fouhey et al., 2013)."""

import numpy as np

from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.losses.shapes import check_shapes

DELTAS = (1.25, 1.25**2, 1.25**3)
ANGLES = (11.25, 22.5, 30.0)  # degrees


def depth_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the errors of an image's depths, of the pixels whose true depth is known.

    `delta1`, `delta2`, `delta3`: shares of the pixels with max(p / t, t / p) below 1.25 and its
    powers. `abs_rel`: mean |p - t| / t; `sq_rel`: mean (p - t)^2 / t; `rmse`: root of the mean
    square, in the unit of the depths; `rmse_log`: that of ln p - ln t; `log10`: mean |log10 p -
    log10 t|; `silog`: 100 times the standard deviation of ln p - ln t, the scale-invariant error.

    Args:
      predicted: (...) positive.
      truth: (...), not positive or not finite where it is not known.

    Raises:
      NotMeasurable: no depth is known.
    """
    check_shapes("depth_errors: predicted (...), truth (...)", predicted, truth)
    valid = np.isfinite(truth) & (truth > 0)
    if not valid.any():
        raise NotMeasurable("depth: no pixel of an image has a known depth")
    p, t = predicted[valid].astype(np.float64), truth[valid].astype(np.float64)
    ratio, log = np.maximum(p / t, t / p), np.log(p) - np.log(t)
    errors = {f"delta{i}": np.mean(ratio < d) for i, d in enumerate(DELTAS, 1)}
    errors |= {
        "abs_rel": np.mean(np.abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        "rmse_log": np.sqrt(np.mean(log**2)),
        "log10": np.mean(np.abs(log)) / np.log(10),
        "silog": 100 * np.std(log),
    }
    return {name: float(value) for name, value in errors.items()}


def angles(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the angles (M,) in degrees between the normals of the pixels whose true one is known.

    Args:
      predicted: (..., 3), of any length but zero.
      truth: (..., 3), zero where it is not known.
    """
    check_shapes("angles: predicted (..., 3), truth (..., 3)", predicted, truth)
    length = np.linalg.norm(truth, axis=-1)
    valid = length > 0
    p, t = predicted[valid].astype(np.float64), truth[valid].astype(np.float64)
    p = p / np.maximum(np.linalg.norm(p, axis=-1, keepdims=True), 1e-12)
    cosine = np.sum(p * t, axis=-1) / length[valid]
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def angular_errors(degrees: np.ndarray) -> dict[str, float]:
    """Return the mean, median and root mean square of angles (M,) over all pixels of all images,
    and the shares below 11.25, 22.5 and 30 degrees.

    Raises:
      NotMeasurable: there are none.
    """
    check_shapes("angular_errors: degrees (M)", degrees)
    if not len(degrees):
        raise NotMeasurable("normals: no pixel has a known normal")
    errors = {
        "mean": np.mean(degrees),
        "median": np.median(degrees),
        "rmse": np.sqrt(np.mean(np.square(degrees))),
    }
    errors |= {f"within_{limit:g}": np.mean(degrees < limit) for limit in ANGLES}
    return {name: float(value) for name, value in errors.items()}
