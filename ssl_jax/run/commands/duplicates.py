"""List groups of images that are copies of each other, exact or near, by an encoder's features."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np

from ssl_jax.core.config import flag
from ssl_jax.core.ranges import Count, Range
from ssl_jax.core.stop import interruptible
from ssl_jax.data import copies
from ssl_jax.data.copies import sample
from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.embeddings import near_copies
from ssl_jax.report import sheets
from ssl_jax.report.sheets import Panel
from ssl_jax.run import flags as command_line
from ssl_jax.run import table_files
from ssl_jax.run.console import terminal
from ssl_jax.run.curation import CurationFlags, Embedded, embedded

GROUPS, SHOWN = 100, 16  # on the page: groups, and images of a group
EXACT, NEAR = "exact", "near"
Cosine = Annotated[float, Range(-1, 1)]


@dataclass(frozen=True, kw_only=True)
class Flags(CurationFlags):
    threshold: Cosine | None = flag(
        "cosine of the features from which two images are near copies; by default chosen for the "
        "encoder, by slight changes of some images",
        None,
    )
    neighbors: Count = flag("nearest images with which each image is compared", 10)


class Copy(NamedTuple):
    """An image of a group.

    Attributes:
      row: of the features.
      kind: "exact" if another image of the group has the same content, else "near".
      nearest: row of the most similar other image of the group.
      cosine: of the two.
    """

    row: int
    kind: str
    nearest: int
    cosine: float


def duplicates(flags: Flags) -> dict[str, Any]:
    """Write the table and the page, and print a summary; return the columns of the table.

    Raises:
      UserError: an error that the user must fix.
    """
    with interruptible("the same command goes on from the features that are written"):
        console = terminal()
        data = embedded(flags, console)
        threshold, why = threshold_of(flags, data)
        console.print(f"near copies: cosine of at least {threshold:.4f}, {why}", markup=False)
        groups = groups_of(data, min(flags.neighbors, len(data.features) - 1), threshold)
        columns = columns_of(data, groups)
        table_files.write(flags.output, columns)
        lines = summary(groups)
        if flags.page:
            page = flags.output.with_suffix(".html")
            sheets.write(page, page_of(flags, data, groups, lines, threshold, why))
        console.print("\n".join(lines), markup=False)
        pages = f" and {page}" if flags.page else ""
        console.print(f"written to {flags.output}{pages}", markup=False)
    return columns


def threshold_of(flags: Flags, data: Embedded) -> tuple[float, str]:
    """Return the threshold and the reason for it."""
    if flags.threshold is not None:
        return flags.threshold, "as set by --threshold"
    rows = sample(np.zeros(len(data.features)), near_copies.SAMPLE)
    batches = eval_arrays(
        data.source,
        data.encoder.view.size,
        rows=data.examples[rows],
        channels=data.encoder.channels,
        threads=flags.threads,
        max_bad_fraction=1.0,
    )
    images = np.concatenate([crops[index >= 0] for crops, index in batches])
    others = sample(np.zeros(len(data.features)), near_copies.RANDOM, seed=1)
    chosen = near_copies.choose_threshold(data.encoder, images, data.features[others], data.mesh)
    share, alike = near_copies.SHARE, near_copies.ALIKE
    return chosen.value, (
        f"the larger of {chosen.copies:.4f}, which {1 - share:.0%} of slight changes of "
        f"{len(images)} of the images exceed, and {chosen.others:.4f}, which {alike:.1%} of pairs "
        "of random images exceed"
    )


def groups_of(data: Embedded, k: int, threshold: float) -> list[list[Copy]]:
    """Return the groups of copies: images of equal content, and pairs of at least `threshold`.
    Groups with exact copies come first, then those with the most similar images.
    """
    digests = copies.identities(data.source, data.examples, most=sys.maxsize)
    _, content = np.unique(digests, return_inverse=True)
    order = np.argsort(content, kind="stable")
    same = content[order[1:]] == content[order[:-1]]
    pairs = near_copies.near_pairs(data.features, k, threshold, data.mesh)
    first = np.concatenate([pairs.first, order[:-1][same]])
    second = np.concatenate([pairs.second, order[1:][same]])
    cosine = np.concatenate([pairs.cosine, np.ones(int(same.sum()), np.float32)])
    best: dict[int, tuple[float, int]] = {}
    for a, b, value in zip(first.tolist(), second.tolist(), cosine.tolist(), strict=True):
        best[a] = max(best.get(a, (-2.0, -1)), (value, b))
        best[b] = max(best.get(b, (-2.0, -1)), (value, a))
    copied = np.bincount(content)[content] > 1
    groups = [
        [
            Copy(row, EXACT if copied[row] else NEAR, best[row][1], best[row][0])
            for row in group.tolist()
        ]
        for group in near_copies.groups(len(content), first, second)
    ]
    return sorted(groups, key=lambda group: -max(c.cosine + (c.kind == EXACT) for c in group))


def columns_of(data: Embedded, groups: Sequence[Sequence[Copy]]) -> dict[str, list[Any]]:
    """Return the columns: "group", "name", "index", "keep" (the first of each group), "kind",
    "nearest", "cosine" and, if there are labels, "label".
    """
    every = [(number, place, c) for number, g in enumerate(groups, 1) for place, c in enumerate(g)]
    rows = np.array([copy.row for _, _, copy in every], np.int64)
    near = np.array([copy.nearest for _, _, copy in every], np.int64)
    columns: dict[str, list[Any]] = {
        "group": [number for number, _, _ in every],
        "name": data.names(rows),
        "index": data.examples[rows].tolist(),
        "keep": [place == 0 for _, place, _ in every],
        "kind": [copy.kind for _, _, copy in every],
        "nearest": data.names(near),
        "cosine": [min(round(copy.cosine, 6), 1.0) for _, _, copy in every],
    }
    if (labels := data.labels(rows)) is not None:
        columns["label"] = list(labels)
    return columns


def summary(groups: Sequence[Sequence[Copy]]) -> list[str]:
    """Describe the groups in lines."""
    if not groups:
        return ["no copies"]
    every = [copy for group in groups for copy in group]
    exact = sum(copy.kind == EXACT for copy in every)
    return [
        f"{len(groups):,} groups of copies with {len(every):,} images: {exact:,} have an exact "
        f"copy, {len(every) - exact:,} only near ones",
        f"{len(every) - len(groups):,} images are left over if one of each group is kept",
    ]


def page_of(
    flags: Flags,
    data: Embedded,
    groups: Sequence[Sequence[Copy]],
    lines: Sequence[str],
    threshold: float,
    why: str,
) -> str:
    """Return the contact sheet of the first groups."""
    shown = groups[:GROUPS]
    wanted = [copy.row for group in shown for copy in group[:SHOWN]]
    pictures = sheets.thumbnails(
        data.source,
        data.examples[wanted].tolist(),
        min(data.encoder.view.sides),
        data.encoder.channels,
    )
    panels, mixed = [], 0
    for number, group in enumerate(shown, 1):
        rows = np.array([copy.row for copy in group[:SHOWN]])
        names, labels = data.names(rows), data.labels(rows)
        cells = []
        for place, copy in enumerate(group[:SHOWN]):
            text = f"{copy.kind} {copy.cosine:.4f}\n{names[place]}"
            text += f"\n{labels[place]}" if labels else ""
            cells += sheets.cell(pictures, int(data.examples[copy.row]), text)
        several = len(set(filter(None, labels or ()))) > 1
        mixed += several
        notes = [f"{len(group)} images"]
        notes += [f"the first {SHOWN} are shown"] if len(group) > SHOWN else []
        notes += ["their labels differ"] if several else []
        panels.append(Panel(f"Group {number}", "; ".join(notes), cells))
    notes = [f"Groups whose images have different labels: {mixed}."] if mixed else []
    if len(groups) > GROUPS:
        notes.append(f"{GROUPS} of {len(groups):,} groups are shown; the table has all.")
    return sheets.render(
        f"Copies in {data.source.name}",
        f"{lines[0]}.",
        notes,
        "Groups with exact copies come first, then near copies, the most similar first. Below each "
        "image: its kind, its largest cosine to another of the group, and its name.",
        panels,
        {
            "images": f"{len(data.features):,} of {data.source.name}",
            "encoder": data.encoder.origin,
            "threshold": f"{threshold:.4f}: {why}",
            "slight changes": near_copies.CHANGES,
            "compared": f"each image with the {flags.neighbors} nearest ones",
        },
        command_line.command("duplicates", flags),
    )
