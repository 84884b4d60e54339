"""The page: its sections in order, each with a sentence on what it shows and how it was made."""

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import resources
from string import Template

from ssl_jax.report import curves, images, maps, tables
from ssl_jax.report.look import Look
from ssl_jax.report.markup import Markup, join, tag
from ssl_jax.report.run import BASELINES, Run

FIRST = ("train/loss", "train/lr", "train/grad_norm")
TITLES = {"train/loss": "loss", "train/lr": "learning rate", "train/grad_norm": "gradient norm"}
MOST = 24  # charts that are shown unfolded
Section = tuple[str, str, list[Markup]]  # anchor, heading, content


def render(
    runs: Sequence[Run], names: Mapping[str, str], scores: tuple[str, ...], footer: str
) -> str:
    """Render the whole page as one self-contained file.

    Args:
      runs: one or several.
      names: name of a metric without its kind -> its display name, in reading order.
      scores: prefixes of the metrics that are scores: larger is better, 1 is perfect.
      footer: how the page was made.
    """
    candidates: list[Section] = [
        ("run", "The run" if len(runs) == 1 else "The runs", _overview(runs)),
        ("numbers", "What was learned", _numbers(runs, names, scores)),
        ("curves", "Curves", _curves(runs, names)),
        *_looks(runs),
    ]
    sections = [
        tag("section", tag("h2", heading), *content, id=anchor)
        for anchor, heading, content in candidates
        if content
    ]
    links = [tag("a", heading, href=f"#{a}") for a, heading, content in candidates if content]
    notes = [
        tag("p", f"{run.name}: {note}" if len(runs) > 1 else note, class_="warn")
        for run in runs
        for note in run.notes
    ]
    part = resources.files(__package__)
    return Template(part.joinpath("page.html").read_text()).substitute(
        title=join([_title(runs)]),
        lead=join([_lead(runs)]),
        notes=join(notes),
        navigation=join(links),
        sections=Markup("\n".join(sections)),
        footer=join([footer]),
        style=part.joinpath("page.css").read_text(),
        script=part.joinpath("page.js").read_text(),
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


def _overview(runs: Sequence[Run]) -> list[Markup]:
    return [tables.facts(runs), tables.configs(runs)]


def _numbers(
    runs: Sequence[Run], names: Mapping[str, str], scores: tuple[str, ...]
) -> list[Markup]:
    text = (
        "The last numbers that the run measured, on images without augmentation. Beside each are "
        "the same number for the same network with its initial random weights (untrained) and for "
        "the pixels themselves (raw pixels). The best score of each row is bold."
    )
    key = tag(
        "span",
        " On the line, trained is a disc, untrained a ring, raw pixels a bar.",
        class_="strip-column",  # not there on a phone
    )
    content = [tag("p", text, key), tables.final(runs, names, scores)]
    if any(run.results for run in runs):
        content += [
            tag("h3", "Results of ssl-jax evaluate"),
            tag(
                "p",
                "Each number with all settings of its protocol, the training and evaluation data, "
                "and the checkpoint's step.",
            ),
            tables.results(runs),
        ]
    return content


def _curves(runs: Sequence[Run], names: Mapping[str, str]) -> list[Markup]:
    metrics = list(dict.fromkeys(m for run in runs for m in run.series))
    kinds = ("train/", "eval/", "diag/")
    ordered = [m for m in FIRST if m in metrics]
    ordered += [m for kind in kinds for m in metrics if m.startswith(kind) and m not in FIRST]
    charts: list[Markup] = []
    once, levels = 0, set[str]()
    for metric in ordered:
        lines = {i: run.series[metric] for i, run in enumerate(runs) if metric in run.series}
        name = metric.partition("/")[2]
        title = TITLES.get(metric) or names.get(name) or name.replace("_", " ")
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
    if not charts:
        return [tag("p", "No metric has been logged at two steps yet.", class_="note")]
    text = "As logged to metrics.jsonl, over training steps (updates)."
    if len({_method(run) for run in runs}) > 1:
        text += " Losses of different methods cannot be compared."
    longest = max(len(points) for run in runs for points in run.series.values())
    if longest > curves.MOST:
        text += f" Of curves with more than {curves.MOST} points, every n-th point is drawn."
    content = [tag("p", text), _legend(runs, levels), tag("div", *charts[:MOST], class_="charts")]
    if charts[MOST:]:
        inner = tag("div", *charts[MOST:], class_="charts")
        title = f"{len(charts) - MOST} further curves"
        content.append(tag("details", tag("summary", title), inner))
    if once:
        hint = tag("code", "--config.evals.every=100")
        note = join(
            [
                f"{once} more were measured at one step only; see the table above. Train with ",
                hint,
                " to get curves of them.",
            ]
        )
        content.append(tag("p", note, class_="note"))
    return content


def _legend(runs: Sequence[Run], levels: Collection[str]) -> Markup:
    def key(kind: str, colour: str) -> Markup:
        line = tag("line", x1=0, x2=28, y1=7, y2=7, class_=f"{kind} {colour}")
        return tag("svg", line, viewBox="0 0 28 14", class_="key", aria_hidden="true")

    items = [tag("li", key("base", f"c{i}"), run.name) for i, run in enumerate(runs)]
    colour = "c0" if len(runs) == 1 else "c6"
    items += [
        tag("li", key(f"base {prefix}", colour), name)
        for prefix, name in BASELINES.items()
        if prefix in levels
    ]
    return tag("ul", *items, class_="legend") if len(items) > 1 else Markup("")


def _looks(runs: Sequence[Run]) -> list[Section]:
    looks = [(run, run.look) for run in runs if run.look is not None]
    if not looks:
        return []

    def each(draw: Callable[[Look], Sequence[Markup]]) -> Markup:
        parts = []
        for run, view in looks:
            title = [tag("h3", f"{run.name}, step {view.step:,}")] if len(runs) > 1 else []
            parts.append(tag("div", *title, *draw(view)))
        return tag("div", *parts, class_="runs") if len(runs) > 1 else parts[0]

    # Side by side, runs are compared with each other: of raw pixels, only the number is shown.
    neighbours = functools.partial(_neighbours, kinds=1 if len(runs) > 1 else 2)
    sections: list[Section] = [
        ("neighbours", "Nearest neighbours", [each(neighbours)]),
        ("map", "Map of the features", [each(_maps)]),
        ("clusters", "Clusters", [each(_clusters)]),
    ]
    for title in dict.fromkeys(title for _, view in looks for title in view.grids):
        pairs = [(run, view) for run, view in looks if title in view.grids]
        parts = []
        for run, view in pairs:
            name = [tag("h3", f"{run.name}, step {view.step:,}")] if len(runs) > 1 else []
            caption = tag("p", view.grids[title].caption)
            parts.append(tag("div", *name, caption, images.grid(title, view.grids[title])))
        content = tag("div", *parts, class_="runs") if len(runs) > 1 else parts[0]
        sections.append((re.sub(r"\W+", "-", title.lower()), title, [content]))
    return sections


def _neighbours(view: Look, kinds: int) -> list[Markup]:
    first = next(iter(view.neighbours.values()))
    count = first.nearest.shape[1]
    text = (
        f"Evaluation images, one per class if there are labels, each with the {count} of "
        f"{len(view.train.labels):,} training images that have the largest cosine to it, by "
        "features or by raw pixels."
    )
    if first.same is not None:
        text += (
            f" {images.RIGHT} and a solid line: the same class; {images.WRONG} and a dashed line: "
            f"another class. The share of the same class is over all {len(view.test.labels):,} "
            "evaluation images."
        )
    blocks = []
    shares = {
        title: "" if near.same is None else f"{near.same:.1%} of the same class"
        for title, near in view.neighbours.items()
    }
    for title, near in list(view.neighbours.items())[:kinds]:
        share = f" {shares[title]}"
        if kinds == 1 and near.same is not None:
            share += "; " + "; ".join(f"by {t} {n}" for t, n in shares.items() if t != title)
        caption = tag("figcaption", tag("strong", f"By {title}"), share)
        grid = images.neighbours(near, view.train, view.test, view.classes)
        blocks.append(tag("figure", caption, grid))
    return [tag("p", text), tag("div", *blocks, class_="pair")]


def _maps(view: Look) -> list[Markup]:
    text = (
        f"{len(view.test.labels):,} evaluation images, similar ones near each other, by t-SNE of "
        "the features and, for comparison, of the raw pixels. Only which images are near each "
        "other is meaningful: not the axes, the size of a group or the distance between groups."
    )
    charts = [
        maps.scatter(title, places, view.test.labels, view.classes)
        for title, places in view.maps.items()
    ]
    legend = maps.legend(view.test.labels, view.classes)
    labelled = (view.test.labels >= 0).any()
    text += " Colour and shape show the class." if labelled else ""
    return [tag("p", text), legend, tag("div", *charts, class_="maps")]


def _clusters(view: Look) -> list[Markup]:
    text = (
        f"k-means with {len(view.clusters)} clusters on the standardised features of "
        f"{len(view.train.labels):,} training images, the best of 3 starts, the largest cluster "
        "first; each is shown by some images drawn at random."
    )
    if any(cluster.label >= 0 for cluster in view.clusters):
        total = sum(cluster.size for cluster in view.clusters)
        pure = sum(cluster.size * cluster.purity for cluster in view.clusters) / total
        text += (
            " The share of its most frequent class (purity) is beside its number; over all images "
            f"it is {pure:.1%}."
        )
    return [tag("p", text), images.clusters(view.clusters, view.train, view.classes)]
