"""Progress of a run: a live line in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

PLAIN_SECONDS = 10.0
SHORT = 2.0  # seconds after which the time of a phase is shown


def duration(seconds: float) -> str:
    """Format seconds: 75 -> "1:15", 3700 -> "1:01:40"."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class _Elapsed(ProgressColumn):
    """Elapsed time of the current phase."""

    def render(self, task: Task) -> Text:
        since = task.fields["since"]
        seconds = time.monotonic() - since if since else 0.0
        return Text(duration(seconds) if seconds >= SHORT else "")


class StatusLine:
    """A live line in a terminal, else a plain line every ten seconds. A context manager.

    Args:
      count: number done -> its text, such as "step 3/10".
      total: number of items; None if not yet known.
      done: number done at the start.

    Attributes:
      console: where everything is printed.
    """

    def __init__(
        self,
        console: Console,
        count: Callable[[int], str] = lambda done: "",
        total: int | None = None,
        done: int = 0,
    ):
        self.console, self._count = console, count
        self._printed = self._named = -PLAIN_SECONDS
        self._phase = self._shown = ""
        self._live = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.fields[count]}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.description}", markup=False),
                _Elapsed(),
                console=console,
                transient=True,
                refresh_per_second=4,
            )
            self._task = self._live.add_task(
                "starting ...", total=total, completed=done, count=count(done), since=None
            )

    def phase(self, text: str, detail: str = "", brief: bool = False) -> None:
        """Name the current phase, before the numbers of `show` come, and its current `detail`.

        With plain lines, each phase is named once unless it is `brief`, and a detail only if
        nothing was printed for some time.
        """
        time_now, entered = time.monotonic(), text != self._phase
        self._phase = text
        phase_text = f"{text}: {detail} ..." if detail else f"{text} ..."
        if self._live is not None:
            since = {"since": time_now} if entered else {}
            self._live.update(self._task, refresh=True, description=phase_text, **since)  # type: ignore[arg-type]
        elif (entered and not brief) or (detail and time_now - self._named >= PLAIN_SECONDS):
            self._named = time_now
            self.console.print(f"{text} ..." if entered else phase_text, markup=False)

    def back(self, text: str) -> None:
        """Return from a phase to the numbers shown last, or to `text` if there are none."""
        if self._live is not None and self._phase:
            self._live.update(self._task, description=self._shown or f"{text} ...", since=None)
        self._phase = ""

    def show(self, done: int, text: str, last: bool = False) -> None:
        """Show `text`, if there is any; the `last` one is printed in any case."""
        self._phase, self._shown = "", text
        if self._live is not None:
            self._live.update(
                self._task,
                completed=done,
                description=text,
                count=self._count(done),
                since=None,
            )
        elif text and (last or time.monotonic() - self._printed >= PLAIN_SECONDS):
            self._printed = time.monotonic()
            self.console.print(f"{self._count(done)}  {text}", markup=False)

    def stop(self) -> None:
        """Remove the live line."""
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ProgressLine(StatusLine):
    """Progress of a training run: its phase, then step/total, loss, images per second, share of
    time spent waiting for data, MFU if known, and remaining time.
    """

    def __init__(self, console: Console):
        self._total = 0
        super().__init__(
            console, lambda step: f"step {step:>6}/{self._total}" if self._total else ""
        )
        self._first: tuple[int, float] | None = None  # after compilation

    def begin(self, step: int, total: int) -> None:
        """Start to count steps: `step` of `total` are done."""
        self._total, self._first = total, None
        if self._live is not None:
            self._live.update(self._task, total=total, completed=step, count=self._count(step))

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Show the metrics of `step`."""
        self.show(step, self._text(step, values), last=step == self._total)

    def _text(self, step: int, values: Mapping[str, float]) -> str:
        parts = [
            f"loss {values['train/loss']:.4f}",
            f"{values['perf/images_per_second']:,.0f} img/s",
        ]
        if "perf/environment_steps_per_second" in values:
            parts.append(f"{values['perf/steps_per_second']:,.0f} steps/s")
            parts.append(f"{values['perf/environment_steps_per_second']:,.0f} environment steps/s")
        if "train/online_top1" in values:
            parts.append(f"online probe {values['train/online_top1']:.1%}")
        parts.append(f"data wait {values['perf/data_wait']:.0%}")
        if "perf/mfu" in values:
            parts.append(f"MFU {values['perf/mfu']:.0%}")
        time_now, pace = time.monotonic(), values["perf/steps_per_second"]
        self._first = self._first or (step, time_now)
        if step > self._first[0]:
            pace = (step - self._first[0]) / (time_now - self._first[1])
        parts.append(f"ETA {duration((self._total - step) / pace)}")
        return "  ".join(parts)
