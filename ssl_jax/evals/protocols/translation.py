"""Distance of translated images from the target domain, beside that of the untranslated ones.

Two sets of features: the run's own encoder, and a stated one without weights ("hog"): orientation
histograms of the grey image, and mean and deviation of each channel, in 4 x 4 cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import recipes
from ssl_jax.core.inputs import View
from ssl_jax.core.ranges import Several
from ssl_jax.data.copies import sample
from ssl_jax.data.sources import open_source
from ssl_jax.data.survey import read_alike
from ssl_jax.evals.base import Batch, Protocol, Subject
from ssl_jax.evals.distances import distances
from ssl_jax.evals.images import Part
from ssl_jax.losses.hog import hog
from ssl_jax.objectives.base import Encoder, Probe

Array = jax.Array
CELLS = 4  # per side
LEVELS = 4096  # of grey, finer than the 8 bits of images
STREAM = "target"


@dataclass(frozen=True, kw_only=True)
class Translation(Protocol):
    """Fréchet and kernel distance of the translated evaluation images from the target domain.

    The features are not those of the published FID and KID, so the numbers do not compare. The
    encoder is the generator's, which was trained to meet the target: prefer the stated features,
    or another run's encoder (`distance`, on the images that `ssl-jax translate` writes).

    Attributes:
      target: images of the target domain; by default the training data's, `data.streams.target`.
      examples: most images of each domain.
    """

    titles: ClassVar[Mapping[str, str]] = {
        f"{name}{distance}_{features}": f"{title} distance, {images}, by {by} (not the published "
        f"{known})"
        for name, images in (("translation_", "translations"), ("untranslated_", "untranslated"))
        for distance, title, known in (("frechet", "Fréchet", "FID"), ("kid", "kernel", "KID"))
        for features, by in (("hog", "gradients and colours"), ("encoder", "the generator"))
    }

    labels: ClassVar[bool] = False
    needs: ClassVar[str] = "a method that translates images, and images of its target domain"

    target: str = ""
    examples: Several = 1000

    def applies(self, subject: Subject) -> bool:
        known = bool(self.target) or STREAM in subject.images.streams
        return known and subject.encoder is not None and subject.encoder.translator is not None

    def measure(self, subject: Subject) -> dict[str, float]:
        probe, images = subject.probe, subject.images
        own, _ = subject.map(_own_and_translated, images.some(self.examples), probe)
        target, _ = subject.map(_own, self.target_part(subject), probe)
        return {
            f"{which}_{name}_{features}": value
            for which, sets in own.items()
            for features, rows in sets.items()
            for name, value in distances(rows, target[features]).items()
        }

    def target_part(self, subject: Subject) -> Part:
        """Return the images of the target domain."""
        images = subject.images
        if self.target:
            value_range = images.train.source.value_range
            source = read_alike(open_source(self.target, "eval"), value_range)
        else:
            source = images.streams[STREAM]
        return Part(source, sample(np.zeros(len(source)), self.examples))


def stated_features(unit: Array) -> Array:
    """Describe images (B, H, W, C) in [0, 1] by (B, 16 (9 + 2 C)) numbers; see the module."""
    batch, height, width, channels = unit.shape
    rows, columns = height - height % CELLS, width - width % CELLS
    unit = unit[:, :rows, :columns]
    grey = jnp.mean(unit, -1, keepdims=True)
    grey = jax.image.resize(grey, (batch, side := max(rows, columns), side, 1), "linear")
    # The bins of orientations have hard borders, which the edges of drawn squares lie on: without
    # rounding, the last bits, which differ between numbers of devices, would choose the bin.
    grey = jnp.round(grey * LEVELS) / LEVELS
    cells = unit.reshape(batch, CELLS, rows // CELLS, CELLS, columns // CELLS, channels)
    parts = (hog(grey, side // CELLS), cells.mean((2, 4)), cells.std((2, 4)))
    return jnp.concatenate([x.reshape(batch, -1) for x in parts], axis=1)


def _features(encoder: Encoder, view: View, images: Array, probe: Probe) -> dict[str, Array]:
    """Return both sets of features (B, D) of normalised images (B, H, W, C)."""
    stated = stated_features(recipes.unit(view, images))
    return {"hog": stated, "encoder": probe.read(encoder.features(images))}


def _own(encoder: Encoder, batch: Batch, probe: Probe) -> dict[str, Array]:
    return _features(encoder, batch.view, batch.images, probe)


def _own_and_translated(
    encoder: Encoder, batch: Batch, probe: Probe
) -> dict[str, dict[str, Array]]:
    """Return the features of the translations and of the images themselves."""
    shown = {"translation": encoder.translate(batch.images), "untranslated": batch.images}
    return {name: _features(encoder, batch.view, x, probe) for name, x in shown.items()}
