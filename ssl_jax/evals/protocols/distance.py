"""Distances between the training and the evaluation images, as the encoder sees them.

With the images of `ssl-jax translate` as training data and those of the target domain as evaluation
data, any encoder judges a translation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ssl_jax.evals import features
from ssl_jax.evals.base import AtLayer, Subject
from ssl_jax.evals.distances import distances


@dataclass(frozen=True, kw_only=True)
class Distance(AtLayer):
    """Fréchet and kernel distance of the features of two sets of images.

    They are those of the encoder, at the layer that is read; the published FID and KID are of an
    Inception network, so the numbers do not compare.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "distance_frechet": "Fréchet distance of the sets by the encoder (not the published FID)",
        "distance_kid": "kernel distance of the sets by the encoder (not the published KID)",
    }

    labels: ClassVar[bool] = False
    needs: ClassVar[str] = "an encoder"

    def measure(self, subject: Subject) -> dict[str, float]:
        images, probe = subject.images, subject.probe_of(self)
        rows = []
        for part in (images.train, images.test):
            batches = images.batches(part)
            (of_part,), _ = features.extract(
                subject.encoder, images.view, [probe], batches, images.mesh
            )
            rows.append(of_part)
        return {f"distance_{name}": value for name, value in distances(*rows).items()}
