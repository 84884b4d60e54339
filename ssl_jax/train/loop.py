"""The loop around the step: evaluate, save, refresh if due, next batch, step, log. The order never
changes.

A refresh comes after the save, so that a run that resumes there makes it again from the same state.
The loop never waits for the device in order to log: the metrics of a step are read once the next
one has been dispatched.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.train.state import TrainState

Evaluation = Callable[[TrainState, int], Mapping[str, float]]


@dataclass(frozen=True)
class TrainConfig:
    """The section `train` of a config.

    Attributes:
      steps: updates in all; if 0,
      epochs: passes over the data set, each of `examples // batch_size` steps.
      batch_size: images of a global batch, over all devices.
      seed: of everything random.
      init_from: folder of another run: the backbone starts as that run's encoder.
      log_every: steps between logged lines.
      stop_at: end the process after this step as if it were interrupted; schedules do not see it. 0
        is never.
      online_probe: learning rate of a linear classifier that is trained along on labels, 0.001 say,
        and leaves no trace in the method; see `evals.online`. None: there is none.
    """

    steps: int = 0
    epochs: float = 0.0
    batch_size: int = 256
    seed: int = 0
    init_from: str = ""
    log_every: int = 10
    stop_at: int = 0
    online_probe: float | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"train.batch_size: {self.batch_size} is not positive")
        if min(self.steps, self.epochs) < 0 or max(self.steps, self.epochs) == 0:
            raise UserError(
                "train: give steps or epochs, a positive number (steps wins over epochs)"
            )
        if self.log_every < 1 or self.stop_at < 0 or not 0 <= self.seed < 2**32:
            raise UserError("train: log_every >= 1, stop_at >= 0 and 0 <= seed < 2**32 must hold")


@dataclass(frozen=True)
class Hooks:
    """What the loop calls, and when; none of it changes the state but `refresh`.

    Attributes:
      evaluate: (state, step) -> metrics; called where `evaluate_at(step)`.
      save: (state, step); called where `save_at(step)`, never with a state that is not finite.
      refresh: (state) -> state; called where `refresh_at(step)`.
      log: (step, metrics as floats).
      at: (what is done now, step), for who watches from outside.
    """

    evaluate: Evaluation
    evaluate_at: Callable[[int], bool]
    save: Callable[[TrainState, int], None]
    save_at: Callable[[int], bool]
    log: Callable[[int, Mapping[str, float]], None]
    refresh: Callable[[TrainState], TrainState] = lambda state: state
    refresh_at: Callable[[int], bool] = lambda step: False
    at: Callable[[str, int], None] = lambda what, step: None


def run(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, jax.Array]]],
    batches: Iterator[Any],
    hooks: Hooks,
    *,
    start: int,
    stop: int,
    batch_size: int,
    log_every: int,
    mfu: Callable[[Any, float], Mapping[str, float]] = lambda batch, steps_per_second: {},
) -> TrainState:
    """Make the steps `start` to `stop` and return the state.

    A run that resumes at `start` has evaluated and saved there before.

    Args:
      batches: global batches on the device, from step `start` on.
      mfu: (batch's shapes, steps a second) -> further metrics, where the chip's peak is known.

    Raises:
      UserError: a loss or gradient was not finite; names the step.
    """
    clock = _Clock(batch_size, start)
    pending: tuple[int, Mapping[str, jax.Array]] | None = None
    shapes: Any = None

    def read_pending(check: bool = False) -> None:
        """Log the last step's metrics where due; `check` looks at its finite flag anyway."""
        nonlocal pending
        if pending is None:
            return
        step, metrics = pending
        pending = None
        due = step % log_every == 0 or step == stop
        if not (due or check):
            jax.block_until_ready(metrics["bad_step"])  # at most one step runs ahead of the host
            return
        values = {name: float(v) for name, v in jax.device_get(metrics).items()}
        bad_step = int(values.pop("bad_step"))
        if bad_step >= 0:
            raise UserError(
                f"loss or gradient not finite at step {bad_step}; that update was undone and "
                "the run stopped: lower optim.lr, or set optim.clip_norm"
            )
        if not due:
            return
        rates = clock.read(step)
        hooks.log(step, values | rates | dict(mfu(shapes, rates["perf/steps_per_second"])))

    with jax.transfer_guard("disallow"):
        for step in range(start, stop + 1):
            fresh = step > start or step == 0
            if fresh and hooks.evaluate_at(step):
                read_pending(check=True)
                hooks.at("evaluate", step)
                with clock.paused(), jax.transfer_guard("allow"):
                    hooks.log(step, hooks.evaluate(state, step))
            if fresh and hooks.save_at(step):
                read_pending(check=True)
                hooks.at("save", step)
                with clock.paused(), jax.transfer_guard("allow"):
                    hooks.save(state, step)
            if step == stop:
                break
            if hooks.refresh_at(step):
                hooks.at("refresh", step)
                with clock.paused(), jax.transfer_guard("allow"):
                    state = hooks.refresh(state)
            hooks.at("data", step)
            with clock.waiting():
                batch = next(batches)
            hooks.at("step", step)
            shapes = shapes or jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, metrics = train_step(state, batch)
            if step == start:
                clock = _Clock(batch_size, step)  # the first call compiles
            read_pending()
            pending = (step + 1, metrics)
        read_pending()
    return state


class _Clock:
    """Rates between two readings, without the time spent in evaluations and saves."""

    def __init__(self, batch_size: int, step: int):
        self._batch_size, self._step = batch_size, step
        self._since, self._waited = time.monotonic(), 0.0

    def read(self, step: int) -> dict[str, float]:
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        pace = (step - self._step) / elapsed
        rates = {
            "perf/steps_per_second": pace,
            "perf/images_per_second": pace * self._batch_size,
            "perf/data_wait": min(self._waited / elapsed, 1.0),
        }
        self._since, self._step, self._waited = now, step, 0.0
        return rates

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began
