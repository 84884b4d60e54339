"""A classifier of images in one file: a network, its head, the classes and their temperature."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.data.sources import Source
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.embeddings.run import results
from ssl_jax.evals.calibration import HIGHEST, LOWEST, probabilities
from ssl_jax.objectives import base
from ssl_jax.objectives.base import Probe
from ssl_jax.run import orbax_export, weights_file
from ssl_jax.weights import networks

FILE = "classifier.safetensors"  # in the folder that `ssl-jax finetune` writes
KEY = "classifier"  # of the file's metadata
KERNEL, BIAS = "classifier/linear1/kernel", "classifier/linear1/bias"
POOLED = Probe(pool="pooled")  # what the head reads


@dataclass(frozen=True)
class Loading:
    """Settings of the reading of images: see `embeddings.job.ImagesJob`."""

    mesh: jax.sharding.Mesh
    batch_size: int = 256
    threads: int = 0
    max_bad_fraction: float = 0.01


@dataclass(frozen=True)
class ImageClassifier:
    """A network and a linear head, kernel (D, C) and bias (C,).

    Attributes:
      classes: names of the C classes.
      temperature: divisor of the logits that calibrates the confidences.
      side: typical short side in pixels of the images that it learned from.
      several: whether an image may show several classes, each with a confidence of its own.
    """

    encoder: ImageEncoder
    kernel: np.ndarray
    bias: np.ndarray
    classes: tuple[str, ...]
    temperature: float = 1.0
    side: int = 0
    several: bool = False

    @classmethod
    def read(cls, path: Path, mesh: jax.sharding.Mesh) -> "ImageClassifier":
        """Read a classifier from its file, or from the folder that holds it.

        Raises:
          UserError: there is none, or it is damaged.
        """
        if path.is_dir():
            if not (path / FILE).is_file():
                raise UserError(
                    f"{path} holds no classifier; make one: ssl-jax finetune --workdir=RUN "
                    "--data=LABELLED --output=DIR"
                )
            path = path / FILE
        elif not path.is_file():
            raise UserError(
                f"{path} does not exist; name the folder that ssl-jax finetune has written"
            )
        file = orbax_export.read_any(path)
        weights = networks.of_file(file, str(path))
        if KEY not in weights.metadata:
            raise UserError(f"{path} holds weights, but no classifier of ssl-jax finetune")
        view, _, settings = weights_file.preprocessing(weights, "normalize")
        params, stats = jax.device_put(weights.variables(), sharding.replicated(mesh))
        bare = base.Encoder(params, stats, weights.net)
        encoder = ImageEncoder.of(bare, view, POOLED, weights.channels, settings, str(path))
        own = weights.networks[weights.encoder]
        try:
            stored = from_json(weights.metadata[KEY])
            classes = tuple(map(str, stored["classes"]))
            temperature, side = float(stored["temperature"]), int(stored["side"])
            several = bool(stored.get("several", False))
            kernel, bias = np.asarray(own[KERNEL]), np.asarray(own[BIAS])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{path}: the description of its classes is damaged") from None
        shape = (*encoder.feature_shape, len(classes))
        finite = np.isfinite(kernel).all() and np.isfinite(bias).all()
        if kernel.shape != shape or bias.shape != shape[1:] or len(classes) < 2 or not finite:
            raise UserError(f"{path}: its head does not fit its {len(classes)} classes")
        if not LOWEST <= temperature <= HIGHEST:
            raise UserError(f"{path}: invalid temperature {temperature}")
        return cls(encoder, kernel, bias, classes, temperature, side, several)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return the logits (N, C) of the network's pooled features (N, D)."""
        return features @ self.kernel + self.bias  # type: ignore[no-any-return]

    def confidences(self, logits: np.ndarray) -> np.ndarray:
        """Return the calibrated probability (N, C) of each class."""
        return probabilities(logits, self.temperature, self.several)


def metadata(classes: Sequence[str], temperature: float, side: int, several: bool = False) -> str:
    """Return the description of a classifier for its file's metadata."""
    made = {"classes": list(classes), "temperature": temperature, "side": side}
    return json.dumps(made | ({"several": True} if several else {}))


def shows_several(source: Source) -> bool:
    """Return whether the images have several labels each, and none has a single one."""
    return source.labels is None and source.label_sets is not None


def features_of(
    encoder: ImageEncoder,
    source: Source,
    loading: Loading,
    rows: np.ndarray | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (N, D) of the images at `rows`, by default all, and their index (N,);
    corrupt images are left out.

    Raises:
      UserError: too many corrupt images, or none that can be read.
    """
    mesh = loading.mesh
    batch = loading.batch_size + -loading.batch_size % mesh.size
    count = len(source) if rows is None else len(rows)
    batch = min(batch, count + -count % mesh.size)
    batches = eval_arrays(
        source,
        encoder.view.size,
        rows=rows,
        channels=encoder.channels,
        batch=max(batch, mesh.size),
        threads=loading.threads,
        max_bad_fraction=loading.max_bad_fraction,
    )
    features, index, done = [], [], 0
    for part in results(encoder, batches, mesh):
        features.append(part.features)
        index.append(part.examples)
        done = min(done + batch, count)
        progress(done)
    if not sum(map(len, index)):
        raise UserError(f"{source.name}: none of {count} images can be read")
    return np.concatenate(features), np.concatenate(index)


def numbered(source: Source, index: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the labels (n,) of the examples `index`, numbered as `classes`, -1 without a label.

    Classes are matched by name if the two share any; one that is not among `classes` has the number
    after the last.
    """
    if source.labels is None:
        return np.full(len(index), -1, np.int64)
    labels = source.labels[index].astype(np.int64)
    places: Mapping[str, int] = {name: number for number, name in enumerate(classes)}
    if not places.keys() & set(source.class_names):
        return np.minimum(labels, len(classes))
    number = [places.get(name, len(classes)) for name in source.class_names]
    return np.array([*number, -1])[labels]


def indicators(source: Source, index: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return, for the examples `index` of images with several labels each, 1 for each of `classes`
    that they show, 0 for the others, -1 where that is not known: (n, C) int8.

    Classes are matched by name if the two share any; others of the images are left out.
    """
    out = np.full((len(index), len(classes)), -1, np.int8)
    if source.label_sets is None:
        return out
    count = len(source.class_names)
    own = source.label_sets.indicators(index, count)
    if source.unsure is not None:
        own[source.unsure.indicators(index, count) > 0] = -1
    places: Mapping[str, int] = {name: number for number, name in enumerate(classes)}
    if not places.keys() & set(source.class_names):
        places = {name: number for number, name in enumerate(source.class_names[: len(classes)])}
    columns = [number for number, name in enumerate(source.class_names) if name in places]
    out[:, [places[source.class_names[number]] for number in columns]] = own[:, columns]
    return out
