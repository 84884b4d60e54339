"""What a person sees while a run goes: a live line in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0


def duration(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class Line:
    """A live line in a terminal, else a plain one every ten seconds. A context manager.

    Args:
      count: how many are done, of all, in words.
      done: at the start.
    """

    def __init__(self, console: Console, count: Callable[[int], str], total: int, done: int = 0):
        self._console, self._count = console, count
        self._printed = -PLAIN_SECONDS
        self._live = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.fields[count]}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.description}", markup=False),
                console=console,
                transient=True,
                refresh_per_second=4,
            )
            self._task = self._live.add_task(
                "compiling ...", total=total, completed=done, count=count(done)
            )

    def show(self, done: int, text: str, last: bool = False) -> None:
        """Show `text`, if there is any; the `last` one is printed in any case."""
        if self._live is not None:
            self._live.update(self._task, completed=done, description=text, count=self._count(done))
        elif text and (last or time.monotonic() - self._printed >= PLAIN_SECONDS):
            self._printed = time.monotonic()
            self._console.print(f"{self._count(done)}  {text}")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


class ProgressLine(Line):
    """step/total, loss, images per second, share of time spent waiting for data, MFU if known, time
    to go.
    """

    def __init__(self, console: Console, start: int, total: int):
        super().__init__(console, lambda step: f"step {step:>6}/{total}", total, start)
        self._total = total
        self._first: tuple[int, float] | None = None  # after compilation

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the metrics of `step`."""
        self.show(step, self._text(step, values), last=step == self._total)

    def _text(self, step: int, values: Mapping[str, float]) -> str:
        parts = [
            f"loss {values['train/loss']:.4f}",
            f"{values['perf/images_per_second']:,.0f} img/s",
        ]
        if "train/online_top1" in values:
            parts.append(f"online probe {values['train/online_top1']:.1%}")
        parts.append(f"data wait {values['perf/data_wait']:.0%}")
        if "perf/mfu" in values:
            parts.append(f"MFU {values['perf/mfu']:.0%}")
        now, pace = time.monotonic(), values["perf/steps_per_second"]
        self._first = self._first or (step, now)
        if step > self._first[0]:
            pace = (step - self._first[0]) / (now - self._first[1])
        parts.append(f"ETA {duration((self._total - step) / pace)}")
        return "  ".join(parts)
