"""Features of a data set for commands that look through it: near copies, odd images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from ssl_jax.core import sharding
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Probability, Whole
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.data.sources import Source
from ssl_jax.embeddings import formats, run
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.embeddings.neighbors import rows_of
from ssl_jax.evals.checks import varied
from ssl_jax.run import table_files, weights_file
from ssl_jax.run.commands import embed
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.finetuning import check_channels
from ssl_jax.run.load import load
from ssl_jax.training import workdir

CHECKED = 4096  # rows that are checked at once
LEAST = 3  # images


@dataclass(frozen=True, kw_only=True)
class CurationFlags(weights_file.EncoderFlags):
    """Flags of commands that look through the images of a data set by their features."""

    workdir: Path | None = flag("folder of the run whose encoder is used", None)
    step: Whole | None = flag("step of the checkpoint; by default the newest", None)
    data: str = flag(
        "images: folder:PATH, parquet:GLOB, tar:GLOB, npz:FILE, ...; by default the run's own", ""
    )
    split: Literal["train", "eval"] = flag("part of data that define both", "train")
    output: Path = flag(f"table to write, FILE{' or FILE'.join(table_files.SUFFIXES)}")
    features: Path | None = flag(
        "file of the features, FILE.npz, used again if it is there; by default beside the table",
        None,
    )
    page: bool = flag("also write a contact sheet, FILE.html", True)
    batch_size: Count = flag("images per batch, over all devices", 256)
    threads: Whole = flag("threads that decode images; by default one per core", 0)
    max_bad_fraction: Probability = flag(
        "share of corrupt images above which the command fails", DataConfig.max_bad_fraction
    )

    @property
    def where(self) -> Path:
        """The run or the file of weights.

        Raises:
          UserError: neither or both are set.
        """
        return weights_file.place(self.workdir, self.weights)

    @property
    def features_file(self) -> Path:
        """File of the features.

        Raises:
          UserError: it is no .npz file, or its folder does not exist.
        """
        path = self.features or self.output.with_suffix(".features.npz")
        if path.suffix != ".npz":
            raise UserError(f"--features={path}: expected FILE.npz")
        if not path.absolute().parent.is_dir():
            raise UserError(f"--features={path}: no folder {path.parent}")
        return path


@dataclass(frozen=True)
class Embedded:
    """A data set and its features.

    Attributes:
      features: (N, D) float32, in a file that is mapped into memory.
      examples: (N,), the position of each row in the data set: corrupt images have no row.
    """

    source: Source
    encoder: ImageEncoder
    features: np.ndarray
    examples: np.ndarray
    mesh: Mesh

    def names(self, rows: np.ndarray) -> list[str]:
        """Name the images of some rows."""
        return formats.names_of(self.source, self.examples[rows])

    def labels(self, rows: np.ndarray) -> Sequence[str] | None:
        """Return the class names of some rows, "" without a label; None without labels."""
        if self.source.labels is None:
            return None
        names = [*map(formats.readable, self.source.class_names), ""]
        return [names[n] for n in self.source.labels[self.examples[rows]]]


def check_count(source: Source, readable: int) -> None:
    """Check that there are enough images to compare.

    Raises:
      UserError: fewer than three can be read.
    """
    if readable < LEAST:
        raise UserError(
            f"{source.name}: {readable} readable image(s); give at least {LEAST} to compare"
        )


def embedded(flags: CurationFlags, console: Console) -> Embedded:
    """Compute the features, or read those that an earlier call has written.

    Raises:
      UserError: no such run or data, fewer than three images, or features that are not finite or
        all the same.
    """
    table_files.check(flags.output)
    where, path = flags.where, flags.features_file
    if flags.weights and not flags.data:
        raise UserError("--data is missing: name the images, --data=folder:/images")
    data = flags.data or Experiment.from_config(workdir.read_config(where)).data.train
    mesh = sharding.make_mesh(sharding.MeshConfig())
    encoder = load(where, step=flags.step, mesh=mesh, backbone=flags.backbone or None)
    source = embed.opened(data, flags.split, encoder)
    check_count(source, len(source))
    check_channels(source, encoder.channels, str(where))
    limits = flags.batch_size, flags.threads, flags.max_bad_fraction
    embed.write(run.Job(encoder, source, path, mesh, *limits), console)
    features, examples = rows_of(path), np.asarray(formats.mapped(path, "index"))
    check_count(source, len(features))
    for start in range(0, len(features), CHECKED):
        if not np.isfinite(features[start : start + CHECKED]).all():
            raise UserError(f"{source.name}: features are not finite; the run may have diverged")
    if not varied(features):
        raise UserError(
            f"{source.name}: the features of all {len(features)} images are the same, so nothing "
            "can be compared; the run has collapsed"
        )
    return Embedded(source, encoder, features, examples, mesh)
