"""List the odd images of a data set: those far from their nearest other images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count
from ssl_jax.core.stop import interruptible
from ssl_jax.embeddings.outliers import Oddness, oddness
from ssl_jax.report import sheets
from ssl_jax.report.sheets import Panel
from ssl_jax.run import flags as command_line
from ssl_jax.run import table_files
from ssl_jax.run.console import terminal
from ssl_jax.run.curation import CurationFlags, Embedded, embedded

SHOWN = 96  # images on the page
FAR = 5.0  # deviations that the summary counts
NEIGHBORS = 10  # if not set


@dataclass(frozen=True, kw_only=True)
class Flags(CurationFlags):
    neighbors: Count | None = flag("nearest images whose mean distance counts; by default 10", None)
    count: Count = flag("number of images to list, the oddest ones", 100)


def outliers(flags: Flags) -> dict[str, Any]:
    """Write the table and the page, and print a summary; return the columns of the table.

    Raises:
      UserError: an error that the user must fix.
    """
    with interruptible("the same command goes on from the features that are written"):
        console = terminal()
        data = embedded(flags, console)
        most = len(data.features) - 1
        if flags.neighbors is not None and flags.neighbors > most:
            raise UserError(
                f"--neighbors={flags.neighbors}: expected at most {most}, the other images"
            )
        k = flags.neighbors or min(NEIGHBORS, most)
        odd = oddness(data.features, k, data.mesh)
        order = np.argsort(-odd.distance, kind="stable")[: flags.count]
        columns = columns_of(data, odd, order)
        table_files.write(flags.output, columns)
        far = int(np.sum(odd.deviations > FAR))
        lines = [
            f"{far:,} of {len(odd.distance):,} images are more than {FAR:g} robust deviations "
            f"further from their {k} nearest images than the median"
        ]
        if flags.page:
            page = flags.output.with_suffix(".html")
            sheets.write(page, page_of(flags, data, odd, order[:SHOWN], lines, k))
        console.print("\n".join(lines), markup=False)
        pages = f" and {page}" if flags.page else ""
        console.print(
            f"the {len(order):,} oddest images are written to {flags.output}{pages}", markup=False
        )
    return columns


def columns_of(data: Embedded, odd: Oddness, order: np.ndarray) -> dict[str, list[Any]]:
    """Return the columns, the oddest image first: "name", "index", "distance", "deviations",
    "nearest" and, if there are labels, "label".
    """
    columns: dict[str, list[Any]] = {
        "name": data.names(order),
        "index": data.examples[order].tolist(),
        "distance": odd.distance[order].round(6).tolist(),
        "deviations": odd.deviations[order].round(3).tolist(),
        "nearest": data.names(odd.nearest[order, 0]),
    }
    if (labels := data.labels(order)) is not None:
        columns["label"] = list(labels)
    return columns


def page_of(
    flags: Flags, data: Embedded, odd: Oddness, order: np.ndarray, lines: Sequence[str], k: int
) -> str:
    """Return the contact sheet of the rows `order`."""
    pictures = sheets.thumbnails(
        data.source,
        data.examples[order].tolist(),
        min(data.encoder.view.sides),
        data.encoder.channels,
    )
    names, labels, cells = data.names(order), data.labels(order), []
    for place, row in enumerate(order):
        text = f"{odd.distance[row]:.4f} ({odd.deviations[row]:+.1f})\n{names[place]}"
        text += f"\n{labels[place]}" if labels else ""
        cells += sheets.cell(pictures, int(data.examples[row]), text)
    return sheets.render(
        f"Odd images in {data.source.name}",
        f"{lines[0]}.",
        [],
        f"The {len(order):,} oddest images, the oddest first. Below each: the mean distance "
        f"(1 - cosine) to its {k} nearest images, the robust deviations of that distance from the "
        "median of all images, and its name.",
        [Panel("", "", cells)],
        {
            "images": f"{len(data.features):,} of {data.source.name}",
            "encoder": data.encoder.origin,
            "median distance": f"{np.median(odd.distance):.4f}",
        },
        command_line.command("outliers", flags),
    )
