"""The model card of a run, `README.md` on the Hugging Face hub: what it was trained on and how, its
numbers beside those of the untrained network and of raw pixels, and how to load it.

It is made to be published, so it names no folders of this machine.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.evals import protocols
from ssl_jax.evals.records import Record, ResultsFile
from ssl_jax.run.catalog import methods
from ssl_jax.run.restored import RestoredRun
from ssl_jax.training.metrics import read_summary

UNKNOWN = "unknown"  # the hub's word for a licence that nobody stated
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
COLUMNS = {"": "trained", "untrained": "untrained", "pixels": "raw pixels"}
MOST = 60  # rows of numbers
Row = tuple[str, Mapping[str, float]]  # measure, column -> number


def model_card(
    run: RestoredRun,
    card: Mapping[str, str],
    loading: str,
    library: str,
    title: str = "",
    license: str = "",
) -> str:
    """Return the text of `README.md`.

    Args:
      card: the metadata of the weights, see `RestoredRun.card`.
      loading: Python lines that load the weights and compute features.
      library: "transformers" or "ssl_jax", for the hub's `library_name`.
      title: by default the method and its network.
      license: identifier of the hub, "apache-2.0"; by default "unknown".

    Raises:
      UserError: a licence that is no identifier.
    """
    if license and not LICENSE.fullmatch(license):
        raise UserError(
            f"--license={license}: expected an identifier of the hub, such as apache-2.0, "
            "cc-by-nc-4.0 or other"
        )
    method = Path(card["method"]).stem
    network = run.experiment.method.backbone.config.title
    title = title or f"{method}, {network}, trained by ssl_jax"
    front = {
        "license": license or UNKNOWN,
        "library_name": library,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["self-supervised-learning", "ssl_jax", method],
    }
    header = "\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items())
    text = license or "not stated. Ask the author before you use the weights"
    return "\n".join(
        [
            f"---\n{header}\n---",
            f"# {title}\n",
            "An image encoder, trained without labels" + _but_labels(run) + ".\n",
            *_facts(run, card, method, network),
            "\n## Results\n",
            *_results(run),
            "\n## Use\n",
            f"```python\n{loading}\n```\n",
            *_preprocessing(card),
            f"\n## Licence\n\n{text}.\n",
        ]
    )


def public_name(spec: str) -> str:
    """Return the name of a data set without the folders that hold it: "folder:images" of
    "folder:/home/me/images".
    """
    scheme, _, path = spec.partition(":")
    if spec.startswith("hf://") or not path or "/" not in path:
        return spec.rpartition("/")[2] if spec.startswith(("/", "~", ".")) else spec
    if scheme == "mix":
        return "mix of " + ", ".join(map(public_name, re.split(r"\+(?=[\w.*]*:)", path)))
    place, mark, fragment = path.partition("#")
    return f"{scheme}:{place.rstrip('/').rpartition('/')[2]}{mark}{fragment}"


def _but_labels(run: RestoredRun) -> str:
    """Return what to add if the method is trained with labels."""
    return "" if not run.experiment.objective.inputs().label else " alone: the method reads them"


def _facts(run: RestoredRun, card: Mapping[str, str], method: str, network: str) -> list[str]:
    experiment, spec = run.experiment, run.experiment.spec
    data = experiment.raw.get("data", {})
    known = methods().get(method)
    trained = json.loads(card["versions"])
    size = count(experiment.objective.encoder(run.params, run.extra).params)
    rows = {
        "Method": f"{method}: {known.paper}" if known else method,
        "Network": f"{network}, {size:,} parameters, {run.channels} channels ({card['encoder']})",
        "Data": f"{public_name(str(data.get('train', '')))}: {spec.num_examples:,} images",
        "Training": f"{run.step:,} of {spec.total_steps:,} steps of {spec.global_batch:,} images"
        + (f", started from {_start(run)}" if experiment.train.init_from else ""),
        "Software": ", ".join(f"{k} {v}" for k, v in trained["exported"].items()),
    }
    return ["| | |", "|---|---|", *(f"| {key} | {_cell(text)} |" for key, text in rows.items())]


def _start(run: RestoredRun) -> str:
    name = str(run.experiment.train.init_from)
    return name if name.startswith("hf://") else Path(name).name


def _results(run: RestoredRun) -> list[str]:
    rows = [*_of_run(read_summary(run.folder), run.step), *_of_records(run)]
    if not rows:
        return ["Not measured. `ssl-jax evaluate` measures frozen features."]
    present = [kind for kind in COLUMNS if any(kind in numbers for _, numbers in rows)]
    table = [f"| measure | {' | '.join(COLUMNS[kind] for kind in present)} |"]
    table.append("|---" * (1 + len(present)) + "|")
    for name, numbers in rows[:MOST]:
        cells = [_number(numbers.get(kind)) for kind in present]
        table.append(f"| {_cell(name)} | {' | '.join(cells)} |")
    missing = [COLUMNS[kind] for kind in COLUMNS if kind not in present]
    more = [f"{len(rows) - MOST} more rows are left out."] if len(rows) > MOST else []
    more += [f"Not measured: {', '.join(missing)}."] if missing else []
    return [*table, "", " ".join(["Frozen features, measured by ssl_jax.", *more])]


def _of_run(summary: Mapping[str, float], step: int) -> list[Row]:
    """Return the rows of the last measurement during training, unless it was of another step."""
    if summary.get("step") != step:
        return []
    rows: list[Row] = []
    for metric in (name for name in summary if name.startswith("eval/")):
        places = {kind: f"{kind}/{metric}".strip("/") for kind in COLUMNS}
        numbers = {kind: summary[place] for kind, place in places.items() if place in summary}
        rows.append((f"{_title(metric)} (during training)", numbers))
    return rows


def _of_records(run: RestoredRun) -> list[Row]:
    """Return the rows of `ssl-jax evaluate` of this step."""
    rows: list[Row] = []
    for record in ResultsFile(run.folder / "eval" / "results.jsonl").read():
        if record["step"] != run.step:
            continue
        sides = {"": record["results"], **record.get("baselines", {})}
        for metric in record["results"]:
            numbers = {kind: side[metric] for kind, side in sides.items() if metric in side}
            rows.append((f"{_title(metric)}{_protocol(record)}", numbers))
    return rows


def _title(metric: str) -> str:
    """Return the display name of a metric, "eval/knn_top1"."""
    return protocols.title(metric.rpartition("/")[2])


def _protocol(record: Record) -> str:
    settings = [f"{key}={value}" for key, value in record["settings"].items()]
    data = [public_name(str(record[key])) for key in ("data", "eval_data") if record.get(key)]
    return f" ({', '.join([record['protocol'], *settings, *data])})"


def _preprocessing(card: Mapping[str, str]) -> list[str]:
    feed = json.loads(card["preprocessing"])
    layer = json.loads(card["probe"])
    return [
        f"Images: the central {feed['crop']:.1%} of the shorter side (all of it if that is no "
        f"larger than the crop), resized to {feed['size']} pixels, divided by 255, minus "
        f"{feed['mean']}, divided by {feed['std']}.",
        f"The results were measured on layer {layer.get('stage')} with pooling "
        f"{layer.get('pool')!r}.",
    ]


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "-"
    return f"{value:.3f}" if math.isfinite(value) else "no score"


def _cell(text: str) -> str:
    """Escape what would end a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())
