"""The page: its sections in order, each a template and the values that it shows."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2

from ssl_jax.report import curves, images, maps, tables
from ssl_jax.report.look import Look
from ssl_jax.report.markup import Markup
from ssl_jax.report.run import BASELINES, Run

FIRST = ("train/loss", "train/lr", "train/grad_norm")
CURVE = 5  # points of the curve of evaluations that the page proposes
TITLES = {"train/loss": "loss", "train/lr": "learning rate", "train/grad_norm": "gradient norm"}
MOST = 24  # charts that are shown unfolded
Values = dict[str, Any]


class Section(NamedTuple):
    """A section of the page: `template` shows `content` below the heading."""

    anchor: str
    heading: str
    template: str
    content: Any


def render(
    runs: Sequence[Run], names: Mapping[str, str], scores: tuple[str, ...], footer: str
) -> str:
    """Render the whole page as one self-contained file; all text is escaped.

    Args:
      runs: one or several.
      names: name of a metric without its kind -> its display name, in reading order.
      scores: prefixes of the metrics that are scores: larger is better, 1 is perfect.
      footer: how the page was made.
    """
    numbers = {"final": tables.final(runs, names, scores), "results": tables.results(runs)}
    facts = {"facts": tables.facts(runs), "settings": tables.configs(runs)}
    several = len(runs) > 1
    sections = [
        Section("run", "The runs" if several else "The run", "run.html", facts),
        Section("numbers", "What was learned", "numbers.html", numbers),
        Section("curves", "Curves", "curves.html", _curves(runs, names)),
        *_looks(runs),
    ]
    notes = [f"{run.name}: {note}" if several else note for run in runs for note in run.notes]
    more = {"runs": runs, "several": several, "kinds": BASELINES}
    return document(_title(runs), _lead(runs), notes, sections, footer, **more)


def document(
    title: str,
    lead: str,
    notes: Sequence[str],
    sections: Sequence[Section],
    footer: str,
    **values: Any,
) -> str:
    """Render one self-contained page; all text is escaped.

    Args:
      notes: warnings below the title.
      values: further values that the templates of the sections read.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    part = resources.files(__package__)
    return environment.get_template("page.html").render(
        title=title,
        lead=lead,
        notes=notes,
        sections=sections,
        footer=footer,
        right=images.RIGHT,
        wrong=images.WRONG,
        style=Markup(part.joinpath("page.css").read_text()),
        script=Markup(part.joinpath("page.js").read_text()),
        **values,
    )


def _title(runs: Sequence[Run]) -> str:
    titles = list(dict.fromkeys(f"{_method(run)} on {_data(run)}" for run in runs))
    return titles[0] if len(titles) == 1 else ", ".join(titles)


def _method(run: Run) -> str:
    return str(run.config.get("objective", {}).get("name", ""))


def _data(run: Run) -> str:
    return str(run.config.get("data", {}).get("train", ""))


def _lead(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side: {', '.join(run.name for run in runs)}."
    if not runs[0].metrics and "optim" not in runs[0].config:
        return "Weights from a file, without their training run."
    done, total = runs[0].step, runs[0].total
    state = "finished" if total and done >= total else "unfinished or still running"
    return f"Self-supervised training, {done:,} of {total:,} steps ({state})."


def _curves(runs: Sequence[Run], names: Mapping[str, str]) -> Values:
    metrics = list(dict.fromkeys(m for run in runs for m in run.series))
    ordered = [m for m in FIRST if m in metrics]
    ordered += [m for m in metrics if m.startswith("train/") and m not in FIRST]
    ordered += tables.measures(metrics, names)
    charts: list[Markup] = []
    once, levels = 0, set[str]()
    for metric in ordered:
        lines = {i: run.series[metric] for i, run in enumerate(runs) if metric in run.series}
        title = TITLES.get(metric) or tables.title(metric, names)
        if max(map(len, lines.values())) < 2:
            once += 1
            continue
        baselines = {
            (i, prefix): run.last[f"{prefix}/{metric}"]
            for i, run in enumerate(runs)
            for prefix in BASELINES
            if math.isfinite(run.last.get(f"{prefix}/{metric}", math.nan))
        }
        levels |= {prefix for _, prefix in baselines}
        charts.append(curves.chart(title, lines, baselines))
    longest = max((len(points) for run in runs for points in run.series.values()), default=0)
    return {
        "charts": charts,
        "most": MOST,
        "once": once,
        "every": max(1, max(run.total for run in runs) // CURVE),
        "methods": len({_method(run) for run in runs}),
        "thinned": curves.MOST if longest > curves.MOST else 0,
        "legend": curves.legend(
            [run.name for run in runs], {k: v for k, v in BASELINES.items() if k in levels}
        ),
    }


def _looks(runs: Sequence[Run]) -> list[Section]:
    looks = [(run, run.look) for run in runs if run.look is not None]
    if not looks:
        return []

    def each(values: Callable[[Look], Values]) -> list[Values]:
        return [{"name": run.name, "step": view.step} | values(view) for run, view in looks]

    # Side by side, runs are compared with each other: of raw pixels, only the number is shown.
    kinds = 1 if len(runs) > 1 else 2
    sections = [
        Section(
            "neighbours",
            "Nearest neighbours",
            "neighbours.html",
            each(lambda view: _neighbours(view, kinds)),
        ),
        Section("map", "Map of the features", "map.html", each(_maps)),
        Section("clusters", "Clusters", "clusters.html", each(_clusters)),
    ]
    for title in dict.fromkeys(title for _, view in looks for title in view.grids):
        grids = [
            {"name": run.name, "step": view.step, "caption": view.grids[title].caption}
            | images.grid(title, view.grids[title])._asdict()
            for run, view in looks
            if title in view.grids
        ]
        sections.append(Section(re.sub(r"\W+", "-", title.lower()), title, "grid.html", grids))
    return sections


def _neighbours(view: Look, kinds: int) -> Values:
    first = next(iter(view.neighbours.values()))
    shares = {
        title: "" if near.same is None else f"{near.same:.1%} of the same class"
        for title, near in view.neighbours.items()
    }
    blocks = []
    for title, near in list(view.neighbours.items())[:kinds]:
        share = shares[title]
        if kinds == 1 and near.same is not None:
            share += "; " + "; ".join(f"by {t} {n}" for t, n in shares.items() if t != title)
        columns, rows = images.neighbours(near, view.train, view.test, view.classes)
        blocks.append({"title": title, "share": share, "columns": columns, "rows": rows})
    return {
        "count": first.nearest.shape[1],
        "train": len(view.train.labels),
        "test": len(view.test.labels),
        "labelled": first.same is not None,
        "blocks": blocks,
    }


def _maps(view: Look) -> Values:
    return {
        "test": len(view.test.labels),
        "charts": [
            maps.scatter(title, places, view.test.labels, view.classes)
            for title, places in view.maps.items()
        ],
        "legend": maps.legend(view.test.labels, view.classes),
    }


def _clusters(view: Look) -> Values:
    purity = None
    if any(cluster.label >= 0 for cluster in view.clusters):
        total = sum(cluster.size for cluster in view.clusters)
        purity = sum(cluster.size * cluster.purity for cluster in view.clusters) / total
    return {
        "count": len(view.clusters),
        "train": len(view.train.labels),
        "purity": purity,
        "sheets": images.clusters(view.clusters, view.train, view.classes),
    }
