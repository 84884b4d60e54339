"""Loggers by name, one per module, and the group of those that a run logs to.

A logger is a module of this package that defines one subclass of `run.logger.Logger`; its name is
the module's, and that of the extra that installs its packages. Modules are found by name, so a new
logger is one new file.
"""

import contextlib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.files import write_json
from ssl_jax.core.plain import from_json, is_whole
from ssl_jax.core.stop import Interrupted
from ssl_jax.evals.records import ResultsFile
from ssl_jax.run.logger import FunctionLogger, LogFunction, LoggedRun, Logger

NONE = "none"
MEMORY = "loggers.json"  # in the run's folder: which runs of the trackers are this one
Target = str | LogFunction | type[Logger]


def known() -> list[str]:
    """List the names of all loggers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def check(names: Sequence[str]) -> None:
    """Check that the loggers `names` exist and that their packages are installed.

    Raises:
      UserError: unknown name, or a package is missing; names the extra.
    """
    if tuple(names) == (NONE,):
        return
    for name in names:
        if name == NONE:
            raise UserError(f"--log={NONE}: give it alone, or leave it out")
        if name not in known():
            raise UserError(f"--log={name}: unknown logger; {suggest(name, [*known(), NONE])}")
        for package in class_of(name).packages:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:  # a folder of data has no origin
                raise UserError(
                    f"--log={name}: the package {package} is not installed; run pip install -e "
                    f"'.[{name}]' in your clone of ssl_jax"
                )


def class_of(name: str) -> type[Logger]:
    """Return the logger that the module `name` of this package defines."""
    module = importlib.import_module(f"{__name__}.{name}")
    (cls,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Logger)
        and value.__module__ == module.__name__
    )
    return cls


@dataclass
class _Open:
    """A logger in use.

    Attributes:
      last: metric -> the last step of which the tracker has it.
      torn: whether the process that logged before ended without a close.
    """

    logger: Logger
    last: dict[str, int] = field(default_factory=dict)
    torn: bool = False


class Loggers:
    """The loggers of a run in the process that writes its metrics; a context manager that closes
    them. One that raises is reported in one line and dropped.

    What a tracker has is never sent to it twice, as most of them would show both values. So a run
    that resumes from an older checkpoint makes steps again that these trackers then keep as they
    were logged first. Those that can replace a step (`Logger.rewrites`) get the new values.

    Args:
      targets: names, functions (step, metrics), or subclasses of `Logger`.
      warn: called with one line per logger that fails.
    """

    def __init__(
        self, targets: Sequence[Target], run: LoggedRun, warn: Callable[[str], None]
    ) -> None:
        self._run, self._warn = run, warn
        self._open: dict[str, _Open] = {}
        self._memory = self._read_memory()
        self._outcome = "interrupted"
        for target in targets:
            if target == NONE:
                continue
            cls = class_of(target) if isinstance(target, str) else target
            name = target if isinstance(target, str) else _name(target)
            with self._dropped_on_error(name, "nothing is logged there"):
                self._open[name] = self._opened(name, cls)

    @property
    def places(self) -> dict[str, str]:
        """Name -> where the tracker keeps the run, of those that say so."""
        return {n: o.logger.place for n, o in self._open.items() if o.logger.place}

    @property
    def names(self) -> list[str]:
        return list(self._open)

    def start(
        self, step: int, lines: Sequence[Mapping[str, float]], reached: Mapping[str, int]
    ) -> None:
        """Start the loggers at `step`, where training starts, resumes or rolls back to, and log
        what they lack of `lines`.

        Args:
          lines: of metrics.jsonl, up to `step`.
          reached: metric -> the last step of which metrics.jsonl had it, with the steps that are
            now made again.
        """
        for name, at in list(self._open.items()):
            with self._dropped_on_error(name):
                at.logger.start(step)
            if at.torn:  # the lines in the file were sent, up to the last one
                at.last = _later(at.last, reached)
                at.torn = False
            if at.logger.rewrites:
                at.last = {metric: min(last, step) for metric, last in at.last.items()}
            if not isinstance(at.logger, FunctionLogger):
                for line in lines:
                    self._send(name, int(line["step"]), line)
        self._write_memory(closed=False)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step."""
        for name in list(self._open):
            self._send(name, step, values)

    def finish(self, summary: Mapping[str, float]) -> None:
        """Log the results of a run that has reached its end."""
        records = ResultsFile(self._run.folder / "eval" / "results.jsonl").read()
        for name, at in list(self._open.items()):
            with self._dropped_on_error(name):
                at.logger.results(summary, records)
        self._outcome = "finished"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, (Interrupted, KeyboardInterrupt)):
            self._outcome = "failed"
        closed = dict(self._open)
        for name, at in closed.items():
            with self._dropped_on_error(name):
                at.logger.close(self._outcome)  # type: ignore[arg-type]
        self._write_memory(closed=True)

    def _opened(self, name: str, target: LogFunction | type[Logger]) -> _Open:
        if not (isinstance(target, type) and issubclass(target, Logger)):
            return _Open(FunctionLogger(target))
        entry = self._memory.get(name)
        logger = target(self._run, entry["id"] if entry else "")
        if logger.fresh:
            return _Open(logger)
        return _Open(logger, entry["last"] if entry else {}, entry is None or entry["open"])

    def _send(self, name: str, step: int, values: Mapping[str, float]) -> None:
        at = self._open.get(name)
        if at is None:
            return
        unsent = {
            metric: float(value)
            for metric, value in values.items()
            if metric != "step" and step > at.last.get(metric, -1)
        }
        if unsent:
            with self._dropped_on_error(name, f"step {step}: nothing more is logged there"):
                at.logger.write(step, unsent)
                at.last |= dict.fromkeys(unsent, step)

    @contextlib.contextmanager
    def _dropped_on_error(
        self, name: str, effect: str = "nothing more is logged there"
    ) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # of any library, or of the user's code
            dropped = self._open.pop(name, None)
            if dropped and name in self._memory:
                self._memory[name] |= {"last": dropped.last, "open": False}
            self._warn(f"--log={name}: {effect}, training continues: {_reason(e)}")

    def _read_memory(self) -> dict[str, Any]:
        """Read what earlier processes logged to which run; unusable entries are left out."""
        try:
            memory = from_json((self._run.folder / MEMORY).read_text())
        except (OSError, ValueError):
            return {}
        return {k: v for k, v in memory.items() if _usable(v)} if isinstance(memory, dict) else {}

    def _write_memory(self, closed: bool) -> None:
        entries = {
            name: {"id": at.logger.id, "last": at.last, "open": not closed}
            for name, at in self._open.items()
            if at.logger.id
        }
        self._memory |= entries
        if not self._memory:
            return
        try:
            write_json(self._run.folder / MEMORY, self._memory)
        except OSError as e:
            self._warn(f"{self._run.folder / MEMORY} cannot be written: {e.strerror}")


def _usable(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("id"), str)
        and isinstance(entry.get("open"), bool)
        and isinstance(entry.get("last"), dict)
        and all(map(is_whole, entry["last"].values()))
    )


def _later(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: max(a.get(name, -1), b.get(name, -1)) for name in a.keys() | b.keys()}


def _name(target: LogFunction | type[Logger]) -> str:
    return str(getattr(target, "__name__", type(target).__name__))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"
