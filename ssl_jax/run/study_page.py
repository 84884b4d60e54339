"""The page of a study, from what its folder holds."""

import contextlib
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json, is_number
from ssl_jax.evals.records import ResultsFile
from ssl_jax.report import study as report
from ssl_jax.report.study_sections import Point
from ssl_jax.run.configs import config_file, config_module
from ssl_jax.run.restart import newest
from ssl_jax.run.study import Planned, finished, last_numbers

LOG = "study.jsonl"  # in the study's folder: CPU time and measurements of each run


def read_page(spec: str) -> report.StudyPage:
    """Read the page that a study's file describes: its `get_page(name)` returns a `StudyPage`.

    Raises:
      UserError: no such file, or it describes no page.
    """
    module = config_module(config_file(spec))
    if not hasattr(module, "get_page"):
        raise UserError(f"--page: {spec.partition(':')[0]} defines no get_page(name)")
    _, _, name = spec.partition(":")
    page = module.get_page(name) if name else module.get_page()
    if not isinstance(page, report.StudyPage):
        raise UserError(f"--page: get_page of {spec} returned {page!r:.40}, not a StudyPage")
    return page


def points(runs: Sequence[Planned], folder: Path) -> list[Point]:
    """Return the measurements of all runs: the last numbers of each finished run, and one point
    per record of `ssl-jax evaluate` on its last checkpoint, whose data and settings are labels too.
    An unfinished run has one point without numbers.
    """
    out = []
    for run in runs:
        own = folder / run.name
        if not finished(own):
            out.append(Point(run.labels))
            continue
        out.append(Point(run.labels, last_numbers(own)))
        for record in ResultsFile(own / "eval" / "results.jsonl").read():
            if record["step"] != newest(own):
                continue  # an earlier checkpoint
            numbers = record["results"] | dict.fromkeys(record.get("not_finite", ()), math.nan)
            for kind, baseline in record.get("baselines", {}).items():
                numbers |= {f"{kind}/{name}": value for name, value in baseline.items()}
            data, protocol = {"data": record["data"]}, {"protocol": record["protocol"]}
            out.append(Point(data | record["settings"] | protocol | dict(run.labels), numbers))
    return out


def note(folder: Path, run: str, seconds: float, evaluate: Sequence[str] | None) -> None:
    """Note in the study's folder the CPU time of a run's training and measurements, and which of
    them are done; None if the run failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    line: dict[str, Any] = {"run": run, "cpu_seconds": round(seconds, 2)}
    line |= {} if evaluate is None else {"evaluate": list(evaluate)}
    with (folder / LOG).open("a") as file:
        file.write(json.dumps(line) + "\n")


def done(folder: Path) -> dict[str, list[str]]:
    """Map each run to its measurements that are done, by their flags."""
    return {r["run"]: r["evaluate"] for r in _notes(folder) if "evaluate" in r}


def _notes(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / LOG).read_text().splitlines() if (folder / LOG).exists() else []
    notes = []
    for line in lines:
        with contextlib.suppress(ValueError):  # torn by a crash
            notes.append(from_json(line))
    return [r for r in notes if isinstance(r, dict) and is_number(r.get("cpu_seconds"))]


def write(
    path: Path, spec: str, runs: Sequence[Planned], folder: Path, words: Sequence[str] = ()
) -> None:
    """Write the page and its figures.

    Args:
      words: further flags of the command, which the page shows with the names of the folder and
        of the file, not where they are.

    Raises:
      UserError: see `read_page`; or the files cannot be written.
    """
    page = read_page(spec)
    timed = done(folder).keys() & {run.name for run in runs}
    shown = [f"--study={spec}", f"--workdir={folder.name}", *words, f"--page={path.name}"]
    facts = report.StudyFacts(
        command=shlex.join(["ssl-jax", "study", *shown]),
        planned=len(runs),
        finished=sum(finished(folder / run.name) for run in runs),
        seconds=sum(r["cpu_seconds"] for r in _notes(folder) if r["run"] in timed),
        timed=len(timed),
    )
    try:
        report.write(path, page, points(runs, folder), facts)
    except OSError as e:
        raise UserError(f"cannot write --page={path}: {e.strerror}") from None
