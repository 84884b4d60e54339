"""Page of a study: Markdown with tables, and figures as SVG files beside it."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_jax.core.files import write_text
from ssl_jax.report.markup import Markup
from ssl_jax.report.study_sections import Point, StudySection

WIDTH = 120  # characters of a line of text
FINDINGS = "Computed from the numbers below; in brackets are Student's 95 % intervals."


@dataclass(frozen=True, kw_only=True)
class StudyPage:
    """Content of a study's page, as its file's `get_page` returns it.

    Attributes:
      title: heading of the page.
      question: paragraph on what the study asks, and the papers that asked it.
      setup: paragraph on data, networks and training of these runs.
      sections: tables and figures.
      limits: what these runs cannot show, one sentence each.
    """

    title: str
    question: str
    setup: str
    sections: Sequence[StudySection]
    limits: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class StudyFacts:
    """Numbers of the runs of a study.

    Attributes:
      command: that made the page.
      planned, finished: numbers of runs.
      seconds: CPU time of training and measuring, of `timed` runs.
    """

    command: str
    planned: int
    finished: int
    seconds: float
    timed: int


def write(path: Path, page: StudyPage, points: Sequence[Point], facts: StudyFacts) -> None:
    """Write the page to `path` and its figures beside it, as STEM-TITLE.svg.

    Raises:
      UserError: a section names a label that no run has, or the files cannot be written.
    """

    def draw(title: str, figure: Markup) -> str:
        slug = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")
        name = f"{path.stem}-{slug}.svg"
        write_text(path.with_name(name), f"{figure}\n")
        return f"![{title}]({name})"

    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"# {page.title}", page.question, f"```\n{facts.command}\n```", _progress(facts)]
    parts += [page.setup]
    selected = [(section, section.select(points)) for section in page.sections]
    findings = [line for section, own in selected for line in section.findings(own)]
    parts += ["## Findings", FINDINGS, _list(findings)] if findings else []
    for section, own in selected:
        parts += [f"## {section.title}", section.text, *section.body(own, draw)]
    parts += ["## Limits", _list(page.limits)] if page.limits else []
    write_text(path, "\n\n".join(filter(None, map(_wrapped, parts))) + "\n")


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _wrapped(part: str) -> str:
    """Break the lines of paragraphs and lists; leave tables, code, headings and figures."""
    if part.startswith(("|", "```", "#", "!")):
        return part
    lines = (
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent="  " if line.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in part.splitlines()
    )
    return "\n".join(lines)


def _progress(facts: StudyFacts) -> str:
    missing = facts.planned - facts.finished
    text = f"{facts.finished} of {facts.planned} runs are finished"
    text += '; cells of the others are "not run", and the command resumes.' if missing else "."
    if facts.timed:
        text += f" {facts.timed} of them took {facts.seconds / 60:.1f} CPU minutes in sum, with"
        text += " compilation and measurements."
    return f"{text} The command wrote this page and its figures from the stored results."
