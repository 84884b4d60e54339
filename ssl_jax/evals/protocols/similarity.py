"""Similarity of the layers of two networks, on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ssl_jax.core.ranges import Several
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.protocols.layers import cka, pooled_stages


@dataclass(frozen=True, kw_only=True)
class Similarity(Protocol):
    """Linear CKA of every stage with every stage of another network (1905.00414): `cka_other_0_2`
    is that of this network's first stage and the other one's third.

    Each network gets the images in its own size and normalisation.

    Attributes:
      other: folder of the other run, whose newest checkpoint is read.
      examples: test images.
    """

    prefix: ClassVar[str] = "diag"
    labels: ClassVar[bool] = False
    needs: ClassVar[str] = "another run to compare with; set it, --sweep=other=FOLDER"

    titles: ClassVar[Mapping[str, str]] = {
        "cka_other_{first}_{second}": "similarity (CKA) of stage {first} and the other network's "
        "stage {second}"
    }

    other: str = ""
    examples: Several = 2048

    def applies(self, subject: Subject) -> bool:
        return super().applies(subject) and bool(self.other)

    def measure(self, subject: Subject) -> dict[str, float]:
        encoder, view = subject.network(self.other)
        images = replace(subject.images, view=view)
        second = Subject(encoder, images, subject.probe)
        part = subject.images.some(self.examples)
        (own, _), (others, _) = subject.map(pooled_stages, part), second.map(pooled_stages, part)
        return {
            f"cka_other_{i}_{j}": float(cka(first, last))
            for i, first in enumerate(own)
            for j, last in enumerate(others)
        }
