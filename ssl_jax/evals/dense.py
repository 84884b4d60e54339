"""Base classes of the protocols that train a head on the maps of a frozen network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, place, to_global
from ssl_jax.core.ranges import Count, Integer, NonNegative, Positive, Seed
from ssl_jax.data.decode import averaged
from ssl_jax.data.masks import read_image
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.dense_heads import DPTHead, Head
from ssl_jax.evals.dense_training import AnyHead, HeadTraining, Layer, Loss, fit, logits_of
from ssl_jax.nets.dpt import LEVELS
from ssl_jax.objectives.base import Encoder

Array = jax.Array
Files = Sequence[tuple[Path, Path]]


@dataclass(frozen=True, kw_only=True)
class DenseProtocol(Protocol):
    """A protocol that trains a head on the maps of a frozen network, by AdamW.

    Attributes:
      train, test: training and test data; without them nothing is measured.
      size: side in pixels of the square images that the head learns from.
      steps, batch_size, lr, weight_decay: of AdamW.
      seed: seed of the training images and of the initial weights.
      patch: side of the patches that raw pixels are split into.
      both: whether `test` is needed with `train`.
    """

    labels: ClassVar[bool] = False
    of_pixels: ClassVar[tuple[str, ...]] = ("patch",)
    both: ClassVar[bool] = True

    train: str = ""
    test: str = ""
    size: Count = 512
    steps: Count = 40_000
    batch_size: Count = 16
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-3
    seed: Seed = 0
    patch: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.both and bool(self.train) != bool(self.test):
            raise UserError(f"{self.name()}: give both, train and test")

    def applies(self, subject: Subject) -> bool:
        """Return whether there are training data; raw pixels are measured too."""
        return bool(self.train)

    def training(
        self, warmup: float, decay: Literal["linear", "cosine"] = "cosine", **more: Any
    ) -> HeadTraining:
        """Return the training with a warmup over this share of the steps; see `HeadTraining`."""
        settings = self.steps, self.batch_size, self.lr, self.weight_decay, self.seed
        return HeadTraining(*settings, warmup, decay, **more)


@dataclass(frozen=True, kw_only=True)
class DenseRegression(DenseProtocol):
    """A dense protocol that predicts values of each pixel of whole images.

    Attributes:
      size: images are resized to squares of this side.
      head: "linear": a batch norm and a 1x1 convolution; "dpt": DPT (2103.13413), see `nets.dpt`.
      stages: stages whose maps the head reads; by default the last one, and for DPT four at equal
        distances. A linear head joins them. Maps of one size become DPT's pyramid, others are one.
      channels: of DPT's fusion blocks.
      readout: "project": the class token of a stage is joined to each position of its map, and
        projected with it by DPT; "ignore": it is not read.
    """

    head: Literal["linear", "dpt"] = "linear"
    stages: tuple[Integer, ...] = ()
    channels: Count = 256
    readout: Literal["ignore", "project"] = "ignore"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head == "dpt" and len(self.stages) not in (0, LEVELS):
            raise UserError(
                f"{self.name()}.stages: head=dpt reads {LEVELS} stages, got {len(self.stages)}"
            )

    def unused(self) -> Mapping[str, str]:
        if self.head == "dpt":
            return {}
        return {"channels": "a linear head has no convolutions of its own; set head=dpt"}

    def predictions(
        self,
        subject: Subject,
        train: Files,
        test: Files,
        outputs: int,
        read: Callable[[Path], np.ndarray],
        loss: Loss,
        training: HeadTraining,
        decode: Callable[[Array], Array],
        mirror: bool = False,
    ) -> Iterator[tuple[Path, np.ndarray]]:
        """Train a head; yield, for each test image, its file of true values and what is predicted.

        Args:
          train, test: files of images and of true values.
          outputs: outputs of the head per pixel.
          read: reads a file of true values (H, W, ...); pixels are taken from it at `size`.
          loss: see `fit`.
          decode: function of the head's outputs (B, h, w, outputs); returns what is predicted.
          mirror: mirror half of the training images.
        """
        images, size = subject.images, self.size
        options = images.channels, images.train.source.value_range
        layer = self.layer(subject)
        head = self.head_of(layer.shapes(subject, size), outputs, layer.class_token)

        def pixels(file: Path) -> np.ndarray:
            return averaged(read_image(file, *options), size, size)

        def sample(rng: np.random.Generator, _: int) -> tuple[np.ndarray, np.ndarray]:
            image, file = train[int(rng.integers(len(train)))]
            values = read(file)
            rows, columns = (np.arange(size) * side // size for side in values.shape[:2])
            picture, values = pixels(image), values[rows[:, None], columns]
            flipped = mirror and rng.random() < 0.5
            return (picture[:, ::-1], values[:, ::-1]) if flipped else (picture, values)

        mesh = images.mesh
        weights = fit(subject, head, layer, sample, loss, training)
        weights = place(weights, sharding.replicated(mesh))
        placed, mine = sharding.batch_sharding(mesh), sharding.local_rows(mesh, mesh.size)
        for start in range(0, len(test), mesh.size):
            distributed.tick()
            part = test[start : start + mesh.size]
            batch = np.stack([pixels(part[min(i, len(part) - 1)][0]) for i in mine])
            logits = logits_of(weights, subject.encoder, to_global(batch, placed), head, layer)
            for (_, file), own in zip(part, gather(decode(logits)), strict=False):
                yield file, own

    def layer(self, subject: Subject) -> Layer:
        """Return where maps are read; raw pixels have one stage and no class token."""
        count = LEVELS if self.head == "dpt" else 1
        view = subject.images.view
        if subject.encoder is None:
            return Layer(view, (-1,) * count, self.patch)
        stages = self.stages or (spread_stages(subject) if count == LEVELS else (-1,))
        return Layer(view, stages, self.patch, self.readout == "project")

    def head_of(self, shapes: Sequence[tuple[int, ...]], outputs: int, token: bool) -> AnyHead:
        """Return the head for maps of these shapes (h, w, D)."""
        widths = tuple(shape[-1] for shape in shapes)
        if self.head == "linear":
            return Head("linear", widths, 0, outputs)
        reassemble = len({shape[:2] for shape in shapes}) == 1
        if token and not reassemble:
            raise UserError(f"{self.name()}.readout: project reads one map size; set ignore")
        return DPTHead(widths, self.channels, outputs, reassemble, token)


def spread_stages(subject: Subject, count: int = LEVELS) -> tuple[int, ...]:
    """Return `count` stages of an encoder at equal distances, ending with the last."""
    images = subject.images
    shape = (images.mesh.size, *images.view.sides, images.channels)
    pictures = jax.ShapeDtypeStruct(shape, np.float32)
    stages = len(jax.eval_shape(Encoder.features, subject.encoder, pictures).stages)
    return tuple(max(stages * i // count - 1, 0) for i in range(1, count + 1))
