"""Monocular depth from frozen maps by a linear head over bins (AdaBins 2011.14141; DINOv2's linear
protocol, 2304.07193) or by DPT (2103.13413; DINOv2's second protocol).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, NonNegative, Positive
from ssl_jax.data.decode import DecodeError, check_size, open_image
from ssl_jax.data.scene_folders import pairs
from ssl_jax.evals.base import Subject
from ssl_jax.evals.dense import DenseRegression, Files
from ssl_jax.evals.depth_metrics import depth_errors

Array = jax.Array
BINS = 256
LEAST = 1e-3  # of the first bin, as a share of the largest; and metres, of predictions
LAMBDA = 0.85  # of the scale-invariant loss: 1 - 0.15
WEIGHT = 10.0
START = 0.5  # depth of an output of 0 of DPT, as a share of the largest
STRIDES = (1, 2, 4, 6)  # pixels, of the gradient loss


@dataclass(frozen=True, kw_only=True)
class Depth(DenseRegression):
    """Errors of the depths that a head predicts, means over the test images.

    A linear head has 256 bins up to `far`; the depth is their mean, weighted by max(logit, 0) +
    0.1. DPT predicts the depth itself. The loss is the scale-invariant one (2011.14141). AdamW has
    a third of the steps for the warmup and then half a cosine; half of the images are mirrored.

    Attributes:
      train, test: folders with images/NAME.jpg and depth/NAME.png, or lists of lines `IMAGE DEPTH`
        with paths relative to the list's folder (NYUd and KITTI as in BTS); without them nothing is
        measured. A depth is a 16-bit PNG, 0 where it is not known.
      unit: values per metre: 1000 for NYUd, 256 for KITTI.
      far: metres; larger depths count as not known (10 for NYUd, 80 for KITTI).
      crop: pixels that are scored: "all", "eigen" (rows 45 to 470, columns 41 to 600 of NYUd's 480
        x 640) or "garg" (KITTI).
      gradient: weight of the gradient loss, 0.5 in DINOv2; see `gradient_loss`.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "depth_delta1": "depth, share within a factor of 1.25",
        "depth_delta2": "depth, share within a factor of 1.25^2",
        "depth_delta3": "depth, share within a factor of 1.25^3",
        "depth_abs_rel": "depth, mean relative error",
        "depth_sq_rel": "depth, mean squared error over the depth",
        "depth_rmse": "depth, root mean squared error, metres",
        "depth_rmse_log": "depth, root mean squared error of the logarithm",
        "depth_log10": "depth, mean error of the decimal logarithm",
        "depth_silog": "depth, scale-invariant error of the logarithm, %",
    }
    scores: ClassVar[tuple[str, ...]] = ("depth_delta",)
    decides: ClassVar[tuple[str, ...]] = ("depth_delta1",)
    needs: ClassVar[str] = "images and depths (train, test)"

    unit: Positive = 1000.0
    far: Positive = 10.0
    crop: Literal["all", "eigen", "garg"] = "all"
    gradient: NonNegative = 0.0
    size: Count = 416
    steps: Count = 38_400
    lr: Positive = 3e-4
    weight_decay: NonNegative = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.far <= LEAST:
            raise UserError(f"depth: expected far above {LEAST}, got {self.far}")

    def measure(self, subject: Subject) -> dict[str, float]:
        train, test = depth_pairs(self.train), depth_pairs(self.test)
        binned = self.head == "linear"

        def shares(file: Path) -> np.ndarray:
            """Read depths in shares of `far`, so that one program serves all ranges."""
            return self._known(read_depth(file, self.unit)) / np.float32(self.far)

        errors = []
        for file, own in self.predictions(
            *(subject, train, test, BINS if binned else 1, shares),
            loss=DepthLoss(binned, self.gradient),
            training=self.training(1 / 3, b2=0.99, clip=35.0),
            decode=expected_depth if binned else direct_depth,
            mirror=True,
        ):
            truth = self._scored(self._known(read_depth(file, self.unit)))
            own = np.asarray(jax.image.resize(own, truth.shape, "linear"))
            errors.append(depth_errors(np.clip(own * self.far, LEAST, self.far), truth))
        return {f"depth_{name}": float(np.mean([e[name] for e in errors])) for name in errors[0]}

    def _known(self, depth: np.ndarray) -> np.ndarray:
        return np.where(depth > self.far, 0, depth).astype(np.float32)

    def _scored(self, depth: np.ndarray) -> np.ndarray:
        """Set depths outside of the crop to 0."""
        height, width = depth.shape
        top, bottom, left, right = 0.0, 1.0, 0.0, 1.0
        if self.crop == "eigen":
            top, bottom, left, right = 45 / 480, 471 / 480, 41 / 640, 601 / 640
        elif self.crop == "garg":
            top, bottom, left, right = 0.40810811, 0.99189189, 0.03594771, 0.96405229
        out = np.zeros_like(depth)
        rows = slice(int(top * height), int(bottom * height))
        columns = slice(int(left * width), int(right * width))
        out[rows, columns] = depth[rows, columns]
        return out


def expected_depth(logits: Array) -> Array:
    """Return the depths (..., ), in shares of the largest, of logits (..., bins)."""
    bins = jnp.linspace(LEAST, 1.0, logits.shape[-1])
    weights = jax.nn.relu(logits) + 0.1
    return jnp.sum(weights * bins, axis=-1) / jnp.sum(weights, axis=-1)


def direct_depth(outputs: Array) -> Array:
    """Return the depths (...,), in shares of the largest, of outputs (..., 1): `max(y + 0.5, 0)`
    and the least depth. DINOv2 has no 0.5, so that its depths start about 0, where no gradient is.
    """
    return jax.nn.relu(outputs[..., 0] + START) + LEAST


@dataclass(frozen=True)
class DepthLoss:
    """The scale-invariant loss of a head's outputs plus `gradient` times the gradient loss."""

    binned: bool
    gradient: float

    def __call__(self, outputs: Array, depth: Array, real: Array) -> Array:
        """Return a scalar of outputs (B, h, w, C), true depths (B, H, W), 0 where they are not
        known, and which images are no padding (B,).
        """
        predicted = expected_depth(outputs) if self.binned else direct_depth(outputs)
        predicted = jax.image.resize(predicted, depth.shape, "linear")
        loss = scale_invariant_loss(predicted, depth, real)
        if not self.gradient:
            return loss
        return loss + self.gradient * gradient_loss(predicted, depth, real)


def scale_invariant_loss(predicted: Array, depth: Array, real: Array) -> Array:
    """`10 sqrt(var(g) + 0.15 mean(g)^2)`, g = ln p - ln t of the known pixels of all images.

    Args:
      predicted: (B, H, W), positive.
      depth: (B, H, W), 0 where it is not known.
      real: (B,), images that are no padding.

    Returns:
      A scalar, 0 without any known depth.
    """
    g, known = _differences(predicted, depth, real)
    count = jnp.maximum(known.sum(), 1)
    mean = g.sum() / count
    variance = jnp.where(known, jnp.square(g - mean), 0).sum() / count
    value = variance + (1 - LAMBDA) * jnp.square(mean)
    return WEIGHT * jnp.where(value > 0, jnp.sqrt(jnp.where(value > 0, value, 1.0)), 0.0)


def gradient_loss(predicted: Array, depth: Array, real: Array) -> Array:
    """`sum_s (sum |g(y + 2s, x) - g(y, x)| + sum |g(y, x + 2s) - g(y, x)|) / n_s`, g as in
    `scale_invariant_loss`, over pairs of known pixels of the images taken at each s-th pixel, with
    n_s known ones (MegaDepth 1804.00607, section 4). DINOv2's release takes these differences along
    the first two axes of (B, 1, H, W), which are not the image's (`losses/gradientloss.py`).
    """
    g, known = _differences(predicted, depth, real)
    total = jnp.zeros((), g.dtype)
    for stride in STRIDES:
        values, valid = g[:, ::stride, ::stride], known[:, ::stride, ::stride]
        count = jnp.maximum(valid.sum(), 1)
        for axis in (1, 2):
            if values.shape[axis] <= 2:
                continue
            here, both = _neighbours(values, axis), _neighbours(valid, axis)
            step = jnp.where(both[0] & both[1], here[0] - here[1], 0)
            total += jnp.sum(jnp.abs(step)) / count
    return total


def _neighbours(x: Array, axis: int) -> tuple[Array, Array]:
    """Return the pixels that have one two ahead along an axis, and those."""
    take, size = functools.partial(jax.lax.slice_in_dim, x, axis=axis), x.shape[axis]
    return take(0, size - 2), take(2, size)


def _differences(predicted: Array, depth: Array, real: Array) -> tuple[Array, Array]:
    """Return ln p - ln t (B, H, W), 0 where t is not known, and where it is."""
    known = (depth > 0) & real[:, None, None]
    g = jnp.where(known, jnp.log(predicted) - jnp.log(jnp.where(known, depth, 1.0)), 0.0)
    return g, known


def depth_pairs(source: str) -> Files:
    """Return the image and the depth of each example of a folder or a list.

    Raises:
      UserError: neither, no pair in it, or a line that names no files.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        return pairs(path / "images", path / "depth")
    files = []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        row = line.split()
        if not row or row[1:2] == ["None"]:  # KITTI's images without a depth
            continue
        if len(row) < 2:
            raise UserError(f"{path}: line {number}: expected IMAGE DEPTH")
        image, depth = (path.parent / name.lstrip("/") for name in row[:2])
        for file in (image, depth):
            if not file.is_file():
                raise UserError(
                    f"{path}: line {number}: no file {file}; paths are relative to {path.parent}"
                )
        files.append((image, depth))
    if not files:
        raise UserError(f"{path}: no pair of files in it; expected lines IMAGE DEPTH")
    return files


def read_depth(file: Path, unit: float) -> np.ndarray:
    """Read a depth map (H, W) float32 in metres, 0 where it is not known.

    Raises:
      UserError: no image of one channel.
    """
    try:
        check_size(file.stat().st_size)
        with open_image(file.read_bytes()) as image:
            values: Any = np.asarray(image)
    except (OSError, DecodeError) as e:
        raise UserError(f"{file}: {e}") from None
    if values.ndim != 2:
        raise UserError(f"{file}: expected one channel of depths, got shape {values.shape}")
    return (values / unit).astype(np.float32)
