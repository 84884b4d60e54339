"""Pages that are contact sheets: images in panels, with their names and numbers below."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.files import write_text
from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.data.sources import Source
from ssl_jax.report import images
from ssl_jax.report.images import Cell
from ssl_jax.report.page import Section, document

SIDE = 96  # pixels of a thumbnail


class Panel(NamedTuple):
    """Images under a heading."""

    heading: str
    text: str
    cells: Sequence[Cell]


def render(
    title: str,
    lead: str,
    notes: Sequence[str],
    text: str,
    panels: Sequence[Panel],
    facts: Mapping[str, str],
    footer: str,
) -> str:
    """Render a page of panels as one self-contained file; all text is escaped.

    Args:
      notes: warnings below the title.
      text: description of the panels.
      facts: name -> text, below them.
    """
    sections = [
        Section("images", "Images", "sheets.html", {"text": text, "panels": panels}),
        Section("made", "How it was made", "facts.html", facts),
    ]
    return document(title, lead, notes, sections, footer)


def thumbnails(
    source: Source, rows: Sequence[int], side: int, channels: int
) -> dict[int, np.ndarray]:
    """Read the images at `rows`, centrally cropped to at most `SIDE` pixels; corrupt ones are left
    out.

    Args:
      side: side of the images that the network sees.
    """
    index = np.unique(np.asarray(rows, np.int64))
    pictures: dict[int, np.ndarray] = {}
    size = min(side, SIDE)
    # Images were read before: those that are corrupt by now are left out, however many.
    for crops, at in eval_arrays(
        source, size, rows=index, channels=channels, batch=64, max_bad_fraction=1.0
    ):
        pictures |= {int(i): crop for i, crop in zip(at, crops, strict=True) if i >= 0}
    return pictures


def cell(
    pictures: Mapping[int, np.ndarray], row: int, text: str, correct: bool | None = None
) -> list[Cell]:
    """Return the cell of one image, none if it could not be read."""
    if row not in pictures:
        return []
    alt = text.replace("\n", ", ")
    return [Cell(images.picture(pictures[row], alt, SIDE), text, correct)]


def write(path: Path, text: str) -> None:
    """Write a page.

    Raises:
      UserError: it cannot be written.
    """
    try:
        write_text(path, text)
    except OSError as e:
        raise UserError(f"cannot write {path}: {e.strerror or e}") from None
