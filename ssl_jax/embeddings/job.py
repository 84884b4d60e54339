"""Base of the jobs that write what an encoder makes of every image of a data set."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jax.sharding import Mesh

from ssl_jax.data.sources import Source
from ssl_jax.embeddings.encoder import ImageEncoder


@dataclass(frozen=True)
class ImagesJob:
    """An encoder, the images that it reads, and the place of its output.

    Attributes:
      encoder: the network; its weights are replicated on each device of `mesh`.
      source: the images.
      output: file or folder to write.
      batch_size: images at once over all devices, rounded up to a multiple of their number.
      threads: decoding threads; 0 is one per core.
      max_bad_fraction: the job fails if a larger share of the images is corrupt.
    """

    encoder: ImageEncoder
    source: Source
    output: Path
    mesh: Mesh
    batch_size: int = 256
    threads: int = 0
    max_bad_fraction: float = 0.01

    @cached_property
    def batch(self) -> int:
        return self.batch_size + -self.batch_size % self.mesh.size
