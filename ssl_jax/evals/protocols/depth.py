"""Monocular depth from frozen maps by a linear head over bins (AdaBins 2011.14141; DINOv2's linear
protocol, 2304.07193).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.core.ranges import Count, Integer, NonNegative, Positive, Seed
from ssl_jax.data.decode import DecodeError, averaged, check_size, open_image
from ssl_jax.data.masks import read_image
from ssl_jax.data.scene_folders import pairs
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.dense_heads import Head
from ssl_jax.evals.dense_training import HeadTraining, Layer, fit, logits_of
from ssl_jax.evals.depth_metrics import depth_errors

Array = jax.Array
BINS = 256
LEAST = 1e-3  # of the first bin, as a share of the largest; and metres, of predictions
LAMBDA = 0.85  # of the scale-invariant loss: 1 - 0.15
WEIGHT = 10.0
Files = list[tuple[Path, Path]]


@dataclass(frozen=True, kw_only=True)
class Depth(Protocol):
    """Errors of the depths that a linear head predicts, means over the test images.

    The head is a batch norm and a 1x1 convolution to 256 bins up to `far`; the depth is
    their mean, weighted by max(logit, 0) + 0.1. Its loss is the scale-invariant one (2011.14141).

    Attributes:
      train, test: folders with images/NAME.jpg and depth/NAME.png, or lists of lines `IMAGE DEPTH`
        with paths relative to the list's folder (NYUd and KITTI as in BTS); without them nothing is
        measured. A depth is a 16-bit PNG, 0 where it is not known.
      unit: values per metre: 1000 for NYUd, 256 for KITTI.
      far: metres; larger depths count as not known (10 for NYUd, 80 for KITTI).
      crop: pixels that are scored: "all", "eigen" (rows 45 to 470, columns 41 to 600 of NYUd's 480
        x 640) or "garg" (KITTI).
      size: images are resized to squares of this side.
      stages: stages whose maps are joined; by default the last one.
      steps, batch_size, lr, weight_decay: settings of the training by AdamW, with a third of
        the steps for the warmup and then half a cosine.
      seed: seed of the order of the images and of the initial weights.
      patch: side of the patches that raw pixels are split into.
    """

    scores: ClassVar[tuple[str, ...]] = ("depth_delta",)
    decides: ClassVar[tuple[str, ...]] = ("depth_delta1",)
    labels: ClassVar[bool] = False
    of_pixels: ClassVar[tuple[str, ...]] = ("patch",)
    needs: ClassVar[str] = "images and depths (train, test)"

    train: str = ""
    test: str = ""
    unit: Positive = 1000.0
    far: Positive = 10.0
    crop: Literal["all", "eigen", "garg"] = "all"
    size: Count = 416
    stages: tuple[Integer, ...] = (-1,)
    steps: Count = 38_400
    batch_size: Count = 16
    lr: Positive = 3e-4
    weight_decay: NonNegative = 1e-4
    seed: Seed = 0
    patch: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.train) != bool(self.test):
            raise UserError("depth: give both, train and test")
        if self.far <= LEAST or not self.stages:
            raise UserError(f"depth: expected far above {LEAST} and a stage, got {self.far}")

    def applies(self, subject: Subject) -> bool:
        """Return whether it has images with depths; raw pixels are measured too."""
        return bool(self.train)

    def measure(self, subject: Subject) -> dict[str, float]:
        images = subject.images
        train, test = depth_pairs(self.train), depth_pairs(self.test)
        stages = self.stages if subject.encoder is not None else (-1,)
        layer = Layer(images.view, stages, self.patch)
        head = Head("linear", layer.widths(subject, self.size), 0, BINS)
        options = images.channels, images.train.source.value_range

        def pixels(file: Path) -> np.ndarray:
            return averaged(read_image(file, *options), self.size, self.size)

        def sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            image, depth = train[int(rng.integers(len(train)))]
            # In shares of `far`, so that one program serves all ranges.
            values = self._known(read_depth(depth, self.unit)) / self.far
            rows, columns = (np.arange(self.size) * side // self.size for side in values.shape)
            picture, values = pixels(image), values[rows[:, None], columns]
            flipped = rng.random() < 0.5
            return (picture[:, ::-1], values[:, ::-1]) if flipped else (picture, values)

        training = HeadTraining(
            *(self.steps, self.batch_size, self.lr, self.weight_decay, self.seed),
            warmup=1 / 3,
            decay="cosine",
            b2=0.99,
            clip=35.0,
        )
        weights = fit(subject, head, layer, sample, scale_invariant_loss, training)
        mesh = images.mesh
        weights = place(weights, sharding.replicated(mesh))
        placed, mine = sharding.batch_sharding(mesh), sharding.local_rows(mesh, mesh.size)
        errors = []
        for start in range(0, len(test), mesh.size):
            distributed.tick()
            part = test[start : start + mesh.size]
            batch = np.stack([pixels(part[min(i, len(part) - 1)][0]) for i in mine])
            logits = logits_of(weights, subject.encoder, to_global(batch, placed), head, layer)
            predictions = gather(expected_depth(logits))
            for (_, file), own in zip(part, predictions, strict=False):
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


def scale_invariant_loss(logits: Array, depth: Array, real: Array) -> Array:
    """`10 sqrt(var(g) + 0.15 mean(g)^2)`, g = ln p - ln t of the known pixels of all images.

    Args:
      logits: (B, h, w, bins).
      depth: (B, H, W), 0 where it is not known.
      real: (B,), images that are no padding.

    Returns:
      A scalar, 0 without any known depth.
    """
    predicted = jax.image.resize(expected_depth(logits), depth.shape, "linear")
    known = (depth > 0) & real[:, None, None]
    g = jnp.where(known, jnp.log(predicted) - jnp.log(jnp.where(known, depth, 1.0)), 0.0)
    count = jnp.maximum(known.sum(), 1)
    mean = g.sum() / count
    variance = jnp.where(known, jnp.square(g - mean), 0).sum() / count
    value = variance + (1 - LAMBDA) * jnp.square(mean)
    return WEIGHT * jnp.where(value > 0, jnp.sqrt(jnp.where(value > 0, value, 1.0)), 0.0)


def depth_pairs(source: str) -> Files:
    """Return the image and the depth of each example of a folder or a list.

    Raises:
      UserError: neither, or no pair in it.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        return pairs(path / "images", path / "depth")
    rows = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    if wrong := next((n for n, row in enumerate(rows, 1) if len(row) < 2), 0):
        raise UserError(f"{path}: line {wrong}: expected IMAGE DEPTH")
    files = [
        tuple(path.parent / name.lstrip("/") for name in row[:2])
        for row in rows
        if row[1] != "None"  # KITTI's images without a depth
    ]
    if not files or not all(file.is_file() for file in files[0]):
        raise UserError(f"{path}: no pair of files in it; paths are relative to {path.parent}")
    return files  # type: ignore[return-value]


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
