"""The trainer of a run: starts or resumes it, connects the loop to checkpoints, metrics and
evaluations, and handles failures.
"""

import contextlib
import dataclasses
import functools
import math
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ssl_jax.control.acting import ActingLoop
from ssl_jax.core import distributed
from ssl_jax.core.errors import AtOnce, UserError
from ssl_jax.core.stop import Stop
from ssl_jax.core.versions import versions
from ssl_jax.cost import aot, flops
from ssl_jax.data.pipeline import Batches
from ssl_jax.evals.collapse import SIGNS, diagnose
from ssl_jax.evals.evaluator import Evaluator
from ssl_jax.run import pretrained
from ssl_jax.run.acting import make_act
from ssl_jax.run.auto import estimate
from ssl_jax.run.console import evaluation_line
from ssl_jax.run.ending import UNTOUCHED, Ending
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.logger import LoggedRun
from ssl_jax.run.loggers import Loggers, Target
from ssl_jax.training import loop, workdir
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.metrics import MetricsWriter
from ssl_jax.training.profile import Profile
from ssl_jax.training.progress import ProgressLine
from ssl_jax.training.refresh import make_refresh
from ssl_jax.training.spikes import Spikes
from ssl_jax.training.state import TrainState
from ssl_jax.training.step import Step, compiled_ahead, make_train_step

PACKAGES = ("ssl-jax", "jax", "flax", "optax", "orbax-checkpoint")
RETRIES, PAUSE = 3, 2.0  # of a failed last save; seconds before each
ERRORS = "errors.log"  # in the run's folder: tracebacks of errors that did not end the run


@dataclass(frozen=True)
class ResumePoint:
    """Point from which a run starts or resumes.

    Attributes:
      evaluated: whether the evaluation that is due at `step` was made.
      skipped_batches: batches that no step uses, as they led to a loss that was not finite: step s
        takes batch s + skipped_batches.
      measured: last step whose metrics are valid; those of later steps are written again.
    """

    step: int
    state: TrainState
    evaluated: bool
    skipped_batches: int
    measured: int


@dataclass
class Attempt:
    """Training from one resume point; a rollback makes another.

    Attributes:
      host: this host's batches, which count corrupt images and collect what the policy does.
      writer: writer of metrics, in the process that writes them.
      metadata: of the last checkpoint saved in this attempt; empty before it.
      metrics: of the last step that has any.
    """

    start: ResumePoint
    host: Batches | ActingLoop
    writer: MetricsWriter | None
    spikes: Spikes
    metadata: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Training:
    """One run in this process.

    Args:
      resolved: the config as it is written to config.json.
      line: progress line in the terminal.
      stop: handler of signals that end the run; entered.
      accept: whether to resume a run although its config or data have changed.
      log: loggers, used in the process that writes metrics.

    Attributes:
      last: the last value of every metric, in the process that writes them.
      finished: whether the run was already finished.
    """

    def __init__(
        self,
        experiment: Experiment,
        resolved: Mapping[str, Any],
        folder: Path,
        line: ProgressLine,
        stop: Stop,
        profile: Profile,
        accept: bool = False,
        log: Sequence[Target] = (),
    ):
        self._experiment, self._resolved, self._folder = experiment, resolved, folder
        self._line, self._console, self._stop = line, line.console, stop
        self._profile, self._accept = profile, accept
        self._log_to = log if distributed.primary() else ()
        self._mesh, self._objective = experiment.mesh, experiment.objective
        total = experiment.spec.total_steps
        self._total, self._end = total, min(experiment.train.stop_at or total, total)
        self._fingerprint = distributed.agreed(experiment.source.fingerprint)
        self._checkpoints = Checkpoints(
            folder / "checkpoints", experiment.checkpoint, warn=self._warn_of_disk
        )
        self.last: dict[str, float] = {}
        self.finished = self._owing = self._moving = False

    def run(self) -> int:
        """Train until the run ends or is interrupted; return the exit code.

        Raises:
          Interrupted: interrupted before the first step.
          UserError: an error that the user must fix.
        """
        policy = self._experiment.train
        tries = 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._checkpoints)
            stack.enter_context(jax.set_mesh(self._mesh))
            with self._stop.region(UNTOUCHED):
                self._line.phase("building the network and its optimizer")
                self._prepare()
                start = self._resume_point()
                self.finished = self._is_over(start.step, start.evaluated)
                self._prepare_cpu(start.step)
                self._line.phase("opening the loggers", brief=True)
                self._loggers = stack.enter_context(self._opened_loggers())
            while True:
                try:
                    reached = self._train_from(start)
                    break
                except loop.NotFinite as e:
                    if policy.nonfinite != "rollback":
                        raise
                    before, start = start, self._resume_point()
                    tries = tries + 1 if start.step == before.step else 1
                    if tries > policy.nonfinite_limit:
                        raise UserError(f"{e}, {tries} times after step {start.step}") from e
                    skipped = e.step + 1 - start.step
                    start = dataclasses.replace(
                        start, skipped_batches=before.skipped_batches + skipped
                    )
                    self._warn(
                        f"loss or gradient not finite at step {e.step}: back to step {start.step}, "
                        f"skipping the {skipped} batch(es) that led there"
                    )
            if reached > start.step:
                self._line.phase("saving", brief=True)
            self._checkpoints.finish()
            ended = reached == self._end and not (self._owing and self._stop.code)
            if ended:
                self._loggers.finish(self.last)
        self._line.stop()
        if ended:
            return 0
        self._console.print(
            f"saved at step {reached}; run the same command to resume"
            if reached
            else "ended before the first step; run the same command to start again"
        )
        return AtOnce(self._stop.code) if self._stop.cut else self._stop.code

    def _opened_loggers(self) -> Loggers:
        run = LoggedRun(self._folder.absolute(), self._resolved)
        loggers = Loggers(self._log_to, run, self._warn)
        for name, place in loggers.places.items():
            self._say(f"{name}: {place}")
        return loggers

    def _prepare(self) -> None:
        """Build what every attempt of the run shares: evaluator, training step and refresh."""
        run = self._experiment
        sets = run.evals_source, run.eval_source
        self._evaluator = Evaluator(
            self._objective,
            run.evals,
            *sets,
            self._mesh,
            tokenizer=run.tokenizer,
            progress=lambda protocol: self._line.phase(self._measuring, protocol),
            say=self._say,
            streams=run.streams,
        )
        self._measuring = "measuring"
        self._step: Step = make_train_step(
            self._objective, run.tx, run.schedule, self._mesh, run.placed, run.train.skips
        )
        self._refresh = make_refresh(self._objective, run.tx, self._mesh, run.placed)
        self._act = make_act(self._objective, run.train.seed, self._mesh) if run.acts else None
        self._mfu = _mfu(run, self._step)

    def _prepare_cpu(self, step: int) -> None:
        """On CPUs, print an estimate of the remaining time, and compile the training step while the
        evaluation before it runs.
        """
        run, remaining = self._experiment, self._end - step
        if remaining <= 0 or self._mesh.devices.flat[0].platform != "cpu":
            return
        if not run.acts:  # an environment takes its own time
            self._line.phase("estimating the time", brief=True)
            self._console.print(estimate(run, self._step, remaining), markup=False)
        if jax.process_count() == 1:
            batch = aot.abstract_batch(self._objective.inputs(), run.spec, self._mesh)
            self._step = compiled_ahead(self._step, run.abstract_state, batch)

    def _resume_point(self) -> ResumePoint:
        """Return the newest checkpoint that is whole, or the start of a new run."""
        run = self._experiment
        if self._checkpoints.latest is not None:
            self._line.phase("reading the newest checkpoint")
        checkpoint = self._checkpoints.resume(run.abstract_state, run.placed)
        if checkpoint is None:
            weights = pretrained.load(run, self._console)
            fresh = run.fresh_state(weights)
            return ResumePoint(0, fresh, True, 0, measured=-1)
        metadata, step = checkpoint.metadata, checkpoint.step
        where = f"the checkpoint of step {step}"
        workdir.check_resumable(
            metadata["config"], self._resolved, where, run.defaults(), self._accept
        )
        if (
            metadata["data"] != self._fingerprint
            and not self._accept
            and not distributed.agreed(
                lambda: run.source.matches(metadata["data"])  # of an older version
            )
        ):
            raise UserError(
                f"the training data {run.data.train} are not those of {where}: files, sizes, "
                "labels, captions or pixels differ; use the original data, another --workdir, or "
                "--accept_changes"
            )
        evaluated = metadata["evaluated"]
        if not self._is_over(step, evaluated):
            self._console.print(f"resuming from {where}")
        return ResumePoint(step, checkpoint.state, evaluated, metadata["left_out"], measured=step)

    def _is_over(self, step: int, evaluated: bool) -> bool:
        return step == self._end and (evaluated or not self._evaluate_at(step))

    def _train_from(self, start: ResumePoint) -> int:
        """Train from `start` until the run ends or is interrupted; return the last step."""
        run, primary = self._experiment, distributed.primary()
        host, batches = run.training_batches(
            start.step + start.skipped_batches, self._end + start.skipped_batches
        )
        writer = MetricsWriter(self._folder, start.measured, self._warn) if primary else None
        if writer:
            self._loggers.start(start.measured, writer.lines, writer.reached)
        self._line.begin(start.step, self._end)
        self._line.phase("starting", brief=True)
        attempt = Attempt(start, host, writer, self._spikes(writer))
        with (
            writer or contextlib.nullcontext(),
            contextlib.closing(self._profile),
            contextlib.closing(host),
        ):
            last, reached = loop.run(
                start.state,
                self._step,
                batches,
                self._hooks(attempt),
                start=start.step,
                stop=self._end,
                batch_size=run.spec.global_batch,
                log_every=run.train.log_every,
                evaluated=start.evaluated,
                mfu=self._mfu,
            )
            for _ in range(RETRIES):  # the last state is worth several attempts
                self._checkpoints.wait()
                if not self._checkpoints.failed or jax.process_count() > 1:
                    break
                time.sleep(PAUSE)
                if attempt.metadata:
                    self._save(attempt, last, reached, attempt.metadata["evaluated"])
        self.last = writer.last if writer else {}
        return reached

    def _spikes(self, writer: MetricsWriter | None) -> Spikes:
        """Return the detector of loss spikes, fed with the losses logged before."""
        spikes = Spikes(self._experiment.train.spike)
        for line in writer.lines if writer else ():
            if "train/loss" in line:
                spikes.height(line["train/loss"])
        return spikes

    def _hooks(self, attempt: Attempt) -> loop.Hooks:
        refresh_steps = self._objective.refresh_steps()
        save = functools.partial(self._save, attempt)
        ending = Ending(self._stop, self._mesh, save, self._checkpoints.finish, self._console)
        return loop.Hooks(
            evaluate=functools.partial(self._evaluate, attempt),
            evaluate_at=self._evaluate_at,
            save=save,
            save_at=self._save_at,
            log=functools.partial(self._log, attempt),
            collect=functools.partial(self._collect, attempt) if self._act else None,
            refresh=lambda current: self._refresh(current, self._examples),
            refresh_at=lambda step: step in refresh_steps,
            at=self._at,
            end_at=self._stop.due,
            interruptible=ending.interruptible,
            long_step=ending.long_step,
        )

    def _collect(self, attempt: Attempt, current: TrainState, step: int) -> None:
        assert self._act is not None
        attempt.host.collect(functools.partial(self._act, current), step)

    def _log(self, attempt: Attempt, step: int, values: Mapping[str, float]) -> None:
        if "train/loss" in values:
            height = attempt.spikes.height(values["train/loss"])
            spike = {} if height is None else {"diag/loss_spike": height}
            values = {**values, "perf/bad_images": attempt.host.bad} | spike
            if self._act is not None:
                pace = values["perf/steps_per_second"]
                repeat = self._experiment.control.action_repeat
                values["perf/environment_steps_per_second"] = pace * repeat
            self._line.update(step, values)
            if spike:
                self._warn(
                    f"step {step}: the loss {values['train/loss']:.4g} is a spike, "
                    f"{height:.0f} deviations above those before"
                )
        if attempt.metrics.get("step") != step:
            attempt.metrics.clear()
        attempt.metrics.update(values, step=step)
        if attempt.writer:
            attempt.writer.write(step, values)
            self._loggers.write(step, values)

    def _save(self, attempt: Attempt, current: TrainState, step: int, evaluated: bool) -> None:
        if attempt.writer:
            attempt.writer.sync()
        attempt.metadata = self._metadata() | {
            "evaluated": evaluated,
            "left_out": attempt.start.skipped_batches,
        }
        self._owing = not evaluated
        self._line.phase("saving", brief=True)
        attempt.host.save()
        metrics = attempt.metrics if attempt.metrics.get("step") == step else {}
        self._checkpoints.save(step, current, attempt.metadata, metrics)

    def _examples(self) -> Iterator[Any]:
        """Iterate over this host's part of all training examples; stop if the run is to end."""
        for batch in self._experiment.examples():
            self._stop.check()
            yield batch

    def _save_at(self, step: int) -> bool:
        every = self._experiment.checkpoint.every
        return step == self._end or bool(every and step and step % every == 0)

    def _evaluate_at(self, step: int) -> bool:
        every = self._experiment.evals.every
        due = step in (0, self._total) or (every > 0 and step % every == 0)
        return every >= 0 and due and bool(self._experiment.evals.protocols)

    def _evaluate(self, attempt: Attempt, current: TrainState, step: int) -> dict[str, float]:
        last = attempt.writer.last if attempt.writer else {}
        encoder = self._objective.encoder(current.params, current.extra)
        if step == 0:  # a failure here would repeat at every evaluation
            which = (
                "network at the start" if self._experiment.train.init_from else "untrained network"
            )
            self._measuring = f"measuring the {which} and raw pixels"
            return self._evaluator.baselines(encoder)
        self._measuring = f"evaluating step {step}"
        try:
            metrics = alarmed(self._console, step, self._evaluator.measure(encoder), last)
        except Exception as e:
            if jax.process_count() > 1:
                raise  # the other processes are still evaluating
            with contextlib.suppress(OSError), (self._folder / ERRORS).open("a") as file:
                file.write(f"evaluation at step {step}\n{traceback.format_exc()}\n")
            reason = (str(e).splitlines() or [""])[0]
            self._warn(
                f"evaluation at step {step} failed, training goes on: {type(e).__name__}: "
                f"{reason} (traceback in {self._folder / ERRORS}; measure again with `ssl-jax "
                "evaluate`)"
            )
            return {"eval/failed": 1.0}
        if line := evaluation_line(step, metrics):
            self._say(line)
        return metrics

    def _at(self, what: str, step: int) -> None:
        distributed.at(what, step)
        if what == "refresh":
            self._line.phase("passing over the data set for the method", brief=True)
        elif what == "data" and not self._moving:
            self._line.phase("reading the first batch", brief=True)
        elif what == "step" and not self._moving:
            self._line.phase("compiling the training step")
            self._moving = True
        elif what == "step":
            self._line.back("training")
        self._profile.at(what, step)

    def _metadata(self) -> dict[str, Any]:
        """Return the metadata of a checkpoint: method, config, data fingerprint and versions."""
        return {
            "method": self._resolved["objective"]["name"],
            "config": self._resolved,
            "data": self._fingerprint,
            "versions": versions(*PACKAGES),
        }

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _warn(self, text: str) -> None:
        self._console.print(text, style="bold red")

    def _warn_of_disk(self, text: str) -> None:
        """Warn of a failed save in any process, though only the first has a console."""
        if distributed.primary():
            self._warn(text)
        else:
            name = f"process {jax.process_index()} ({socket.gethostname()})"
            print(f"ssl-jax: {name}: {text}", file=sys.stderr, flush=True)


def alarmed(
    console: Console, step: int, metrics: Mapping[str, float], last: Mapping[str, float]
) -> dict[str, float]:
    """Add `diag/collapse` to the metrics of a step that have diagnostics, NaN where these are not
    finite; print a warning if the collapse was not yet in `last`, the metrics of the steps before.
    """
    numbers, before = (
        {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
        for values, prefix in ((metrics, "diag/"), (last, "untrained/diag/"))
    )
    if not numbers:
        return dict(metrics)
    if any(math.isnan(numbers.get(name, 0.0)) for name in SIGNS):
        return {**metrics, "diag/collapse": math.nan}
    diagnosis = diagnose(numbers, before)
    if diagnosis.kind and diagnosis.kind != last.get("diag/collapse"):
        console.print(f"step {step}: {diagnosis}", style="bold red")
    return {**metrics, "diag/collapse": float(diagnosis.kind)}


def _mfu(experiment: Experiment, step_fn: Any) -> Callable[[Any, float], Mapping[str, float]]:
    """Return (batch, steps per second) -> model FLOPs utilization, if the chip's peak is known."""
    mesh = experiment.mesh
    peak = flops.peak(mesh.devices.flat[0].device_kind)
    work: list[int] = []  # FLOPs per step

    def mfu(batch: Any, rate: float) -> Mapping[str, float]:
        if peak is None:
            return {}
        if not work:  # one more trace of the step, once
            work.append(flops.count(step_fn, experiment.abstract_state, batch))
        return {"perf/mfu": work[0] * rate / (peak * mesh.size)}

    return mfu
