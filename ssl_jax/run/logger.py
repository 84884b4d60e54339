"""Base of the loggers, which show a run in an experiment tracker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ssl_jax.evals.records import Record

Outcome = Literal["finished", "interrupted", "failed"]
LogFunction = Callable[[int, Mapping[str, float]], Any]  # (step, name -> value)
EXPERIMENT = "ssl_jax"  # name of the project, unless the tracker's own variable gives one


@dataclass(frozen=True)
class LoggedRun:
    """The run that is logged.

    Attributes:
      folder: its folder, absolute; its name is that of the run.
      config: its config with every default.
    """

    folder: Path
    config: Mapping[str, Any]


class Logger:
    """Logger of one run to one tracker; a subclass in a module of this package is `--log=MODULE`.

    Any exception ends the logger, with one printed line, and never the run.

    Attributes:
      packages: modules that the extra of the logger's name installs.
      rewrites: whether the values of a step replace those that the tracker has of it.
      id: name of the run in the tracker, under which a later process resumes it.
      fresh: whether the tracker holds nothing of the run yet.
      place: where the tracker keeps the run, for the terminal; "" prints nothing.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    rewrites: ClassVar[bool] = False
    id: str = ""
    fresh: bool = False
    place: str = ""

    def __init__(self, run: LoggedRun, id: str):
        """Open the run `id` in the tracker, or a new one if `id` is ""; log the run's config."""

    def start(self, step: int) -> None:
        """Prepare for the steps after `step`, where training starts, resumes or rolls back to."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step, which may have several calls with different names."""
        raise NotImplementedError

    def results(self, summary: Mapping[str, float], records: Sequence[Record]) -> None:
        """Log the results of a finished run.

        Args:
          summary: the last value of every metric.
          records: of `ssl-jax evaluate`, see docs/evaluation.md.
        """

    def close(self, outcome: Outcome) -> None:
        """Flush and close. The same run may be opened again later."""


class FunctionLogger(Logger):
    """A function of one's own, called once per line of metrics.jsonl that this process writes."""

    rewrites = True

    def __init__(self, function: LogFunction):
        self._function = function

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._function(step, dict(values))
