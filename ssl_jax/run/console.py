"""Terminal output of commands: the final table of a run, its verdict, and safe printing."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssl_jax.core import distributed
from ssl_jax.core.errors import visible
from ssl_jax.evals import protocols
from ssl_jax.evals.collapse import SAYS, kind_of

ASIDE = ("collapse", "dimensions")  # numbers that are only shown with others
SIDE = "_mean_per_class"  # ends the names of numbers that are only in files and reports
HELP = (
    "what usually helps: a longer run (train.steps), another method (ssl-jax methods), milder "
    "crops (a larger area of the views), or weights to start from (train.init_from)"
)


class Terminal(Console):
    """Console that prints untrusted names, such as paths and classes, literally: nothing in a text
    is markup or controls the terminal. Styles are set by `rich.text.Text` or by `style`.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text, plain="\n\t"), **options)


def terminal() -> Console:
    """Return the console of a command. It does not break lines, so that paths can be copied; of
    several processes only the first prints.
    """
    return Terminal(soft_wrap=True, highlight=False, quiet=not distributed.primary())


def styled(*parts: str | tuple[str, str]) -> Text:
    """Join texts, each plain or (text, style), to one line."""
    safe = [visible(p, "\n") if isinstance(p, str) else (visible(p[0], "\n"), p[1]) for p in parts]
    return Text.assemble(*safe)


def final_table(
    console: Console, last: Mapping[str, float], layer: str, before: str = "untrained"
) -> None:
    """Print every quality metric of `last` (summary.json): trained, untrained and raw pixels.

    `before` is the name of the weights of step 0.
    """
    table = Table(title=f"What was learned (features: {layer})", title_justify="left")
    table.add_column("measure")
    for column in ("trained", before, "raw pixels"):
        table.add_column(column, justify="right")
    for key, name in _rows(last):
        cells = [last.get(k) for k in (key, f"untrained/{key}", f"pixels/{key}")]
        texts = [Text(number(v)) for v in cells]
        scored = key.removeprefix("eval/").startswith(protocols.scores())
        if scored and None not in cells and cells[0] == max(cells):  # type: ignore[type-var]
            texts[0].stylize("bold green")
        table.add_row(name, *texts)
    if table.row_count:
        console.print(table, soft_wrap=False)
    if kind := kind_of(last.get("diag/collapse", 0)):
        console.print(SAYS[kind], style="bold red")
    if line := verdict(last, before):
        console.print(line, style="bold")


def number(value: float | None, digits: int = 3) -> str:
    """Format a number for a table: "no score" if it is not finite, "" if it is None."""
    if value is None:
        return ""
    return f"{value:.{digits}f}" if math.isfinite(value) else "no score"


def verdict(last: Mapping[str, float], before: str = "untrained") -> str:
    """Return one line if the trained features do not beat raw pixels or the network before
    training, with what usually helps; "" if they do, or if there is nothing to compare.

    Args:
      last: `eval/...`, with `untrained/eval/...` and `pixels/eval/...`.
      before: name of the weights of step 0.
    """
    start = "the untrained network" if before == "untrained" else "the weights it started from"
    rivals = {"pixels/": "raw pixels", "untrained/": start}
    gaps: dict[str, tuple[float, str, str]] = {}
    for key, value in last.items():
        name = key.removeprefix("eval/")
        if not key.startswith("eval/") or not _judges(name) or not math.isfinite(value):
            continue
        scores = [(last[p + key], who) for p, who in rivals.items() if p + key in last]
        scores = [(score, who) for score, who in scores if math.isfinite(score)]
        if scores:
            best, who = max(scores)
            text = f"{protocols.title(name)}, {value:.3f} against {best:.3f}"
            gaps[name] = value - best, who, text
    if strong := {name: gap for name, gap in gaps.items() if name.startswith(protocols.decisive())}:
        gaps = strong
    failures = {name: gap for name, gap in gaps.items() if gap[0] <= 0}
    if not failures:
        return ""
    share = f" in {len(failures)} of {len(gaps)} measures" if len(gaps) > 1 else ""
    _, who, text = min(failures.values())
    if len(failures) > 1:
        text = f"worst: {text}"
    advice = f"; {HELP}" if 2 * len(failures) >= len(gaps) else ""
    return f"The trained features do not beat {who}{share} ({text}){advice}"


def _judges(name: str) -> bool:
    return name.startswith((*protocols.decisive(), *protocols.decisive(last_resort=True)))


def evaluation_line(step: int, numbers: Mapping[str, float]) -> str:
    """Format the scores of an evaluation during a run as one line; "" without any."""
    measured = {key[5:]: value for key, value in numbers.items() if key.startswith("eval/")}
    shown = protocols.titles(measured, families=False)
    scores = [
        f"{name} {number(value)}"
        for name, value in measured.items()
        if _judges(name) or (name in shown and not name.endswith(SIDE))
    ]
    if "diag/rankme" in numbers:
        scores.append(f"rankme {number(numbers['diag/rankme'])}")
    return f"step {step}: {', '.join(scores)}" if scores else ""


def _rows(last: Mapping[str, float]) -> list[tuple[str, str]]:
    """List keys of the metrics with their names: those with titles in order, then all others."""
    keys = {key.split("/", 1)[1]: key for key in last if key.startswith(("eval/", "diag/"))}
    names = sorted(name for name in keys if name not in ASIDE and not name.endswith(SIDE))
    titles = protocols.titles(names)
    return [(keys[n], titles.get(n, n)) for n in dict.fromkeys((*titles, *names))]
