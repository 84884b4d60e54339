"""Tables of the page: the runs' settings, their measures, and the results of `ssl-jax evaluate`."""

import math
from collections.abc import Mapping, Sequence

from ssl_jax.report.markup import Markup, join, table, tag
from ssl_jax.report.run import BASELINES, Run, settings

MOST = 300  # rows of results
ASIDE = ("diag/collapse", "diag/dimensions")  # shown as a note of the run; part of RankMe


def facts(runs: Sequence[Run]) -> Markup:
    """List the facts of each run."""
    if len(runs) == 1:
        pairs = [
            tag("div", tag("dt", name), tag("dd", text)) for name, text in runs[0].facts.items()
        ]
        return tag("dl", *pairs, class_="facts")
    names = list(dict.fromkeys(name for run in runs for name in run.facts))
    rows = [[name, *(run.facts.get(name, "") for run in runs)] for name in names]
    return table(["run", *(run.name for run in runs)], rows, aria_label="Runs")


def configs(runs: Sequence[Run]) -> Markup:
    """List all settings; for several runs, only those in which they differ."""
    flattened = [settings(run.config) for run in runs]
    keys = sorted({key for each in flattened for key in each})
    title = "All settings (config.json)"
    if len(runs) > 1:
        keys = [key for key in keys if len({each.get(key) for each in flattened}) > 1]
        title = f"Settings in which the runs differ ({len(keys)})"
    rows = [[key, *(each.get(key, "") for each in flattened)] for key in keys]
    if not rows:
        return tag("p", "All settings of the runs are equal.", class_="note")
    inner = table(["setting", *(run.name for run in runs)], rows, aria_label=title)
    return tag("details", tag("summary", title), inner)


def scored(metric: str, scores: tuple[str, ...]) -> bool:
    """Tell whether a metric is a score: larger is better, and 1 is perfect."""
    return metric.split("/")[-1].startswith(scores)


def measures(runs: Sequence[Run]) -> list[str]:
    """List the metrics `eval/...` and then `diag/...`, in order of appearance."""
    metrics = dict.fromkeys(m for run in runs for m in run.last if m.startswith(("eval/", "diag/")))
    metrics = {m: None for m in metrics if m not in ASIDE}
    return sorted(metrics, key=lambda metric: metric.startswith("diag/"))


def final(runs: Sequence[Run], names: Mapping[str, str], scores: tuple[str, ...]) -> Markup:
    """List the last value of every measure beside its baselines, the best score per row in bold."""
    kinds = [("", "trained"), *((f"{prefix}/", name) for prefix, name in BASELINES.items())]
    order = {name: position for position, name in enumerate(names)}
    rows = []
    for metric in sorted(measures(runs), key=lambda m: order.get(m.split("/")[-1], len(order))):
        groups = [[run.last.get(prefix + metric) for run in runs] for prefix, _ in kinds]
        finite = [v for group in groups for v in group if v is not None and math.isfinite(v)]
        best = max(finite) if finite and scored(metric, scores) else None
        cells = [_number(value, best) for group in groups for value in group]
        strip = _strip(groups) if best is not None else tag("td", class_="strip-column")
        rows.append([names.get(metric.split("/")[-1], metric), *cells, strip])
    if not rows:
        return tag("p", "The run has not measured anything yet.", class_="note")
    deep = 2 if len(runs) > 1 else 1
    scope = "colgroup" if len(runs) > 1 else "col"
    heads = [tag("th", "measure", rowspan=deep, scope="col")]
    for _, name in kinds:
        heads.append(tag("th", name, colspan=len(runs), scope=scope, class_="number"))
    heads.append(tag("th", "0 to 1", rowspan=deep, scope="col", class_="strip-column"))
    second = [tag("th", run.name, scope="col", class_="number") for _ in kinds for run in runs]
    head = [tag("tr", *heads)] + [tag("tr", *second)] * (deep - 1)
    body = [tag("tr", tag("th", first, scope="row"), *cells) for first, *cells in rows]
    inner = tag("table", tag("thead", *head), tag("tbody", *body))
    return tag(
        "div", inner, class_="scroll numbers", tabindex=0, role="region", aria_label="Numbers"
    )


def _number(value: float | None, best: float | None) -> Markup:
    if value is None:
        return tag("td", "-", class_="number")
    if not math.isfinite(value):
        return tag("td", "no score", class_="number")
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return tag("td", tag("strong", text) if value == best else text, class_="number")


def _strip(groups: Sequence[Sequence[float | None]]) -> Markup:
    """Draw a line from 0 to 1: a disc for trained, a ring for untrained, a bar for raw pixels."""
    parts = [tag("line", x1=4, x2=116, y1=9, y2=9, class_="axis")]
    trained, untrained, pixels = (
        [v if v is not None and math.isfinite(v) else None for v in group] for group in groups
    )
    at = lambda value: f"{4 + 112 * min(max(value, 0), 1):.1f}"  # noqa: E731
    for run, value in enumerate(pixels):
        if value is not None:
            x = at(value)
            parts.append(tag("line", x1=x, x2=x, y1=2, y2=16, class_=f"bar c{run}"))
    for values, kind in ((untrained, "ring"), (trained, "disc")):
        for run, value in enumerate(values):
            if value is not None:
                parts.append(tag("circle", cx=at(value), cy=9, r=4, class_=f"{kind} c{run}"))
    svg = tag("svg", *parts, viewBox="0 0 120 18", class_="strip", aria_hidden="true")
    return tag("td", svg, class_="strip-column")


def results(runs: Sequence[Run]) -> Markup:
    """List `eval/results.jsonl`, one row per measurement, with its protocol and baselines."""
    measurements: dict[tuple[str, ...], dict[tuple[str, str], float]] = {}
    for run in runs:
        for record in sorted(run.results, key=lambda record: record.get("step", 0)):
            options = " ".join(f"{k}={v}" for k, v in record.get("settings", {}).items())
            data = f"{record.get('data', '')} / {record.get('eval_data', '')}"
            sides = {"": record["results"], **record.get("baselines", {})}
            for metric in record["results"]:
                key = metric, record.get("protocol", ""), options, str(record.get("step")), data
                measured = measurements.setdefault(key, {})
                for kind, numbers in sides.items():
                    if isinstance(numbers.get(metric), (int, float)):
                        measured[kind, run.name] = numbers[metric]
    present = {kind for values in measurements.values() for kind, _ in values}
    kinds = [kind for kind in ("", *BASELINES) if kind in present]
    columns = [(kind, run.name) for kind in kinds for run in runs]
    rows = []
    for (metric, protocol, options, step, data), values in list(measurements.items())[:MOST]:
        numbers = [_number(values.get(column), None) for column in columns]
        description = tag("td", join([tag("b", protocol), f" {options}"]), class_="long")
        cells = [*numbers, description, tag("td", step, class_="number"), data]
        rows.append([metric, *cells])
    titles = [" ".join(filter(None, (name, BASELINES.get(kind, "")))) for kind, name in columns]
    heads = ["metric", *titles, "protocol and its settings", "step", "data"]
    count = len(measurements)
    more = f", the first {MOST} of {count}" if count > MOST else f" ({count})"
    title = f"Numbers and their protocols{more}"
    inner = table(heads, rows, aria_label="Results of ssl-jax evaluate")
    return tag("details", tag("summary", title), inner, open="open" if len(rows) <= 20 else None)
