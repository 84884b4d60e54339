"""The loop around the step: evaluate, save, refresh if due, collect, next batch, step, log. The
order never changes.

A refresh comes after the save, so that a run that resumes there makes it again from the same state.
The loop never waits for the device in order to log: the metrics of a step are read once the next
one has been dispatched. Where steps take over a second it does wait, so that an interrupt has one
step to finish, not two; `Hooks.long_step` may end a run within one.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import jax

from ssl_jax.core.config import check
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, NonNegative, Positive, Seed, Whole
from ssl_jax.core.stop import Interrupted
from ssl_jax.training.state import TrainState

LONG = 1.0  # seconds of a step beside which the pause for dispatching the next one is nothing
Evaluation = Callable[[TrainState, int], Mapping[str, float]]


@dataclass(frozen=True)
class TrainConfig:
    """The section `train` of a config.

    Attributes:
      steps: total number of updates; 0 uses `epochs`.
      epochs: passes over the data set, each of `examples // batch_size` steps.
      batch_size: images per global batch, over all devices.
      accumulate: number of parts in which the backbone runs on a batch, one after another, so that
        a device holds the activations of one part only. The gradient is that of the whole batch,
        for every method (docs/configs.md).
      seed: seed of all randomness.
      init_from: folder of another run, whose encoder the backbone starts as; or a file of weights,
        ours or a public one, or hf://USER/NAME, from which heads and averages that fit start too.
      init_channels: rule by which the first layer of `init_from` reads another number of channels
        than it was trained on: "repeat", "mean" or "zero" (docs/weights.md); "" refuses them.
      teacher_from: folder of another run, or a file, with the networks that a method learns from
        without training them: the teacher of a distillation.
      log_every: steps between logged lines.
      nonfinite: what to do when a loss or gradient is not finite, after undoing that update: "stop"
        the run; "skip" up to `nonfinite_limit` such steps in a row; or "rollback" to the newest
        checkpoint, up to `nonfinite_limit` times without a newer one, and continue from there
        without the batches that led to the failure.
      nonfinite_limit: see `nonfinite`.
      spike: deviations above the median of the losses logged before from which a loss is called a
        spike; see `training.spikes`. 0 disables the check.
      stop_at: end the process after this step as if it were interrupted; schedules ignore it. 0
        means never.
      online_probe: learning rate, for example 0.001, of a linear classifier that is trained
        alongside on labels and leaves no trace in the method; see
        `training.online_probe`. None disables it.
    """

    steps: Whole = 0
    epochs: NonNegative = 0.0
    batch_size: Count = 256
    accumulate: Count = 1
    seed: Seed = 0
    init_from: str = ""
    init_channels: Literal["", "repeat", "mean", "zero"] = ""
    teacher_from: str = ""
    log_every: Count = 10
    nonfinite: Literal["stop", "skip", "rollback"] = "stop"
    nonfinite_limit: Count = 10
    spike: NonNegative = 10.0
    stop_at: Whole = 0
    online_probe: Positive | None = None

    def __post_init__(self) -> None:
        check(self, "train")
        if max(self.steps, self.epochs) == 0:
            raise UserError(
                "train: steps and epochs are both 0; set one of them (steps takes precedence)"
            )

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        unused = {}
        if self.steps:
            unused["epochs"] = f"train.steps is {self.steps} and takes precedence; set it to 0"
        if not self.init_from:
            unused["init_channels"] = "train.init_from is empty"
        if self.nonfinite == "stop":
            unused["nonfinite_limit"] = "train.nonfinite is 'stop' and stops at the first such step"
        return unused

    @property
    def skips(self) -> int:
        """Number of steps in a row that may be skipped."""
        return self.nonfinite_limit if self.nonfinite == "skip" else 0


_NOTHING = contextlib.nullcontext()


class NotFinite(UserError):
    """More losses or gradients in a row were not finite than may be skipped; `step` is the last."""

    def __init__(self, step: int):
        self.step = step
        super().__init__(
            f"loss or gradient not finite at step {step}; that update was undone and the run "
            "stopped: lower optim.lr, set optim.clip_norm, or train.nonfinite=skip or =rollback"
        )


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop. Only `refresh` changes the state.

    Attributes:
      evaluate: (state, step) -> metrics; called if `evaluate_at(step)`.
      save: (state, step, whether the evaluation due at the step was made); called if
        `save_at(step)` and when the run ends early after some steps, never with a state that is
        not finite.
      collect: (state, step) -> nothing; called before each batch, so that the source of the batches
        can take what the newest state does, such as its actions in an environment.
      refresh: (state) -> state; called if `refresh_at(step)`. It raises `Interrupted` only before
        it changes the state.
      log: (step, metrics as floats).
      at: (current activity, step), for outside observers.
      end_at: whether an end was requested; called once per step.
      interruptible: (state to save first or None if it is saved, step, whether the evaluation due
        there was made) -> a context in which a request to end raises `Interrupted`: around an
        evaluation, the wait for data, and the first step, which compiles.
      long_step: (state before the step, which the step may overwrite, step) -> a context around a
        step that follows one of over `LONG` seconds, in which a request to end raises `Interrupted`
        at the start only; a run that collects has none.
    """

    evaluate: Evaluation
    evaluate_at: Callable[[int], bool]
    save: Callable[[TrainState, int, bool], None]
    save_at: Callable[[int], bool]
    log: Callable[[int, Mapping[str, float]], None]
    collect: Callable[[TrainState, int], None] | None = None
    refresh: Callable[[TrainState], TrainState] = lambda state: state
    refresh_at: Callable[[int], bool] = lambda step: False
    at: Callable[[str, int], None] = lambda what, step: None
    end_at: Callable[[int], bool] = lambda step: False
    interruptible: Callable[[TrainState | None, int, bool], AbstractContextManager] = (
        lambda state, step, evaluated: contextlib.nullcontext()
    )
    long_step: Callable[[TrainState, int], AbstractContextManager] = lambda state, step: (
        contextlib.nullcontext()
    )


def run(
    state: TrainState,
    train_step: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, jax.Array]]],
    batches: Iterator[Any],
    hooks: Hooks,
    *,
    start: int,
    stop: int,
    batch_size: Count,
    log_every: Count,
    evaluated: bool = True,
    mfu: Callable[[Any, float], Mapping[str, float]] = lambda batch, steps_per_second: {},
) -> tuple[TrainState, int]:
    """Train from step `start` to `stop`; return the state and the last step.

    A run that resumes at `start` has saved there before; `evaluated` says whether it had evaluated
    there as well, which it had unless it was asked to end.

    Args:
      batches: global batches on the device, from step `start` on.
      mfu: (batch's shapes, steps per second) -> further metrics, if the chip's peak is known.

    Raises:
      NotFinite: a loss or gradient was not finite.
    """
    clock = _Clock(batch_size, start)
    pending: tuple[int, Mapping[str, jax.Array]] | None = None
    shapes: Any = None
    long = True  # whether the last step took over `LONG`; it may, as long as there was none

    def read_pending(check: bool = False) -> None:
        """Log the last step's metrics if due; with `check`, check its finite flag in any case."""
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
        if (bad_step := int(values.pop("bad_step"))) >= 0:
            raise NotFinite(bad_step)
        if not due:
            return
        if skipped := values.pop("skipped"):
            values["train/skipped"] = skipped
        rates = clock.read(step)
        hooks.log(step, values | rates | dict(mfu(shapes, rates["perf/steps_per_second"])))

    def save(evaluated: bool) -> None:
        read_pending(check=True)
        hooks.at("save", step)
        with clock.paused(), jax.transfer_guard("allow"):
            hooks.save(state, step, evaluated)

    with jax.transfer_guard("disallow"):
        for step in range(start, stop + 1):
            newly_reached, ending = step > start or step == 0, hooks.end_at(step)
            unsaved = state if step > start else None
            due = hooks.evaluate_at(step) and (newly_reached or not evaluated)
            if due and not ending:
                read_pending(check=True)
                hooks.at("evaluate", step)
                try:
                    with (
                        clock.paused(),
                        jax.transfer_guard("allow"),
                        hooks.interruptible(unsaved, step, False),
                    ):
                        results = hooks.evaluate(state, step)
                    hooks.log(step, results)
                except Interrupted:
                    ending = True
            if (ending and step > start) or (not ending and newly_reached and hooks.save_at(step)):
                save(not (due and ending))
            if step == stop or ending:
                break
            wait = hooks.interruptible(unsaved, step, True)
            try:
                if refreshed := hooks.refresh_at(step):
                    hooks.at("refresh", step)
                    with clock.paused(), jax.transfer_guard("allow"):
                        state = hooks.refresh(state)
                    if unsaved is not None:  # a refreshed state is never saved; the old one is gone
                        wait = _NOTHING
                hooks.at("data", step)
                if hooks.collect is not None:
                    jax.block_until_ready(state.step)  # that is no waiting for data
                with clock.waiting(), wait:
                    if hooks.collect is not None:
                        hooks.collect(state, step)
                    batch = next(batches)
            except Interrupted:
                if unsaved is not None:
                    save(True)
                break
            hooks.at("step", step)
            shapes = shapes or jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
            if long:
                read_pending(check=True)  # it is done, and the step that follows may be left
            around: AbstractContextManager = _NOTHING
            if step == start:
                around = hooks.interruptible(None, step, True)
            elif long and not refreshed and hooks.collect is None:  # or it would collect again
                around = hooks.long_step(state, step)
            began = time.monotonic()
            try:
                with jax.profiler.StepTraceAnnotation("train", step_num=step), around:
                    state, metrics = train_step(state, batch)
                    if step == start:
                        clock = _Clock(batch_size, step)  # the first call compiles
                    read_pending()
                    if long:
                        jax.block_until_ready(metrics["bad_step"])
            except Interrupted:  # in the first step, or before a long one
                if step > start:
                    save(True)
                break
            pending = (step + 1, metrics)
            long = time.monotonic() - began > LONG
        read_pending()
    return state, step


class _Clock:
    """Rates between two readings, excluding the time spent in evaluations and saves."""

    def __init__(self, batch_size: int, step: int):
        self._batch_size, self._step = batch_size, step
        self._since, self._waited = time.monotonic(), 0.0

    def read(self, step: int) -> dict[str, float]:
        time_now = time.monotonic()
        elapsed = max(time_now - self._since, 1e-9)
        pace = (step - self._step) / elapsed
        rates = {
            "perf/steps_per_second": pace,
            "perf/images_per_second": pace * self._batch_size,
            "perf/data_wait": min(self._waited / elapsed, 1.0),
        }
        self._since, self._step, self._waited = time_now, step, 0.0
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
