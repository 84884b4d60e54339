"""A run in its folder, from wherever it stands to the end: what the loop calls, and what is done
where something goes wrong.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import math
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ssl_jax.core import distributed
from ssl_jax.core.errors import AtOnce, UserError
from ssl_jax.core.stop import Stop
from ssl_jax.cost import flops
from ssl_jax.evals.collapse import SIGNS, diagnose
from ssl_jax.evals.evaluator import Quality
from ssl_jax.run import pretrained
from ssl_jax.run.auto import estimate
from ssl_jax.run.console import evaluation_line
from ssl_jax.run.experiment import Experiment
from ssl_jax.train import loop, workdir
from ssl_jax.train.checkpoint import Checkpoints
from ssl_jax.train.metrics import MetricsWriter
from ssl_jax.train.profile import Profile
from ssl_jax.train.progress import ProgressLine
from ssl_jax.train.refresh import make_refresh
from ssl_jax.train.spikes import Spikes
from ssl_jax.train.state import TrainState
from ssl_jax.train.step import make_train_step

PACKAGES = ("ssl-jax", "jax", "flax", "optax", "orbax-checkpoint")
RETRIES, PAUSE = 3, 2.0  # of a last save that failed; seconds before each
UNTOUCHED = "nothing was trained yet, so nothing is saved"
SAVED = "nothing was trained since the newest checkpoint, so nothing is saved"
ERRORS = "errors.log"  # in the run's folder: tracebacks of what did not end the run


@dataclass(frozen=True)
class Begin:
    """Where a part of a run starts.

    Attributes:
      evaluated: whether what is due at `step` was evaluated.
      left_out: batches that no step saw, as losses of theirs were not finite: step s takes batch
        s + left_out.
      measured: metrics up to this step belong to it, those beyond are made again.
    """

    step: int
    state: TrainState
    evaluated: bool
    left_out: int
    measured: int


class Training:
    """One run in this process.

    Args:
      resolved: the config as it is written down.
      line: where a person sees what is done.
      stop: who hears that the run is to end; entered.
      accept: whether to go on with a run though its config or data were others.

    Attributes:
      last: the last value of every metric, in the process that writes them.
      finished: whether nothing was left to do.
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
    ):
        self._experiment, self._resolved, self._folder = experiment, resolved, folder
        self._line, self._console, self._stop = line, line.console, stop
        self._profile, self._accept = profile, accept
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
        """Train to the end, or until somebody asks to end: the exit code.

        Raises:
          Interrupted: somebody asked to end before the first step.
          UserError: something that a person must mend.
        """
        policy = self._experiment.train
        tries = 0
        with self._checkpoints, jax.set_mesh(self._mesh):
            with self._stop.region(UNTOUCHED):
                self._line.phase("building the network and its optimizer")
                self._prepare()
                begin = self._begin()
                self.finished = self._is_over(begin.step, begin.evaluated)
                self._estimate(begin.step)
            while True:
                try:
                    reached = self._part(begin)
                    break
                except loop.NotFinite as e:
                    if policy.nonfinite != "rollback":
                        raise
                    before, begin = begin, self._begin()
                    tries = tries + 1 if begin.step == before.step else 1
                    if tries > policy.nonfinite_limit:
                        raise UserError(f"{e}, {tries} times after step {begin.step}") from e
                    led = e.step + 1 - begin.step
                    begin = dataclasses.replace(begin, left_out=before.left_out + led)
                    self._warn(
                        f"loss or gradient not finite at step {e.step}: back to step {begin.step}, "
                        f"without the {led} batch(es) that led there"
                    )
            if reached > begin.step:
                self._line.phase("saving", brief=True)
            self._checkpoints.finish()
        self._line.stop()
        if reached == self._end and not (self._owing and self._stop.code):
            return 0
        self._console.print(
            f"saved at step {reached}; the same command goes on from there"
            if reached
            else "ended before the first step; the same command starts again"
        )
        return AtOnce(self._stop.code) if self._stop.cut else self._stop.code

    def _estimate(self, step: int) -> None:
        """Tell how long the steps from here on take, where that is known before."""
        left = self._end - step
        if left > 0 and self._mesh.devices.flat[0].platform == "cpu":
            self._line.phase("estimating the time", brief=True)
            text = estimate(self._experiment, left)
            self._console.print(text, markup=False)

    def _prepare(self) -> None:
        """What all parts of the run share."""
        run = self._experiment
        sets = run.evals_source, run.eval_source
        self._quality = Quality(
            self._objective,
            run.evals,
            *sets,
            self._mesh,
            tokenizer=run.tokenizer,
            progress=lambda protocol: self._line.phase(self._measuring, protocol),
            say=self._say,
        )
        self._measuring = "measuring"
        self._step = make_train_step(
            self._objective, run.tx, run.schedule, self._mesh, run.placed, run.train.skips
        )
        self._refresh = make_refresh(self._objective, run.tx, self._mesh, run.placed)
        self._mfu = _mfu(run, self._step)

    def _begin(self) -> Begin:
        """From the newest checkpoint that is whole, or from scratch."""
        run = self._experiment
        if self._checkpoints.latest is not None:
            self._line.phase("reading the newest checkpoint")
        found = self._checkpoints.resume(run.abstract_state, run.placed)
        if found is None:
            given = pretrained.load(run, self._console)
            fresh = run.fresh_state(given)
            return Begin(0, fresh, True, 0, measured=-1)
        said, where = found.metadata, f"the checkpoint of step {found.step}"
        defaults = run.defaults()
        workdir.check_resumable(said["config"], self._resolved, where, defaults, self._accept)
        if (
            said["data"] != self._fingerprint
            and not self._accept
            and not distributed.agreed(
                lambda: run.source.matches(said["data"])  # of an older version
            )
        ):
            raise UserError(
                f"the training data {run.data.train} are not those of {where}: files, sizes, "
                "labels, captions or pixels differ; give the old ones, another --workdir, or "
                "--accept_changes"
            )
        evaluated, left_out = said["evaluated"], said["left_out"]
        if not self._is_over(found.step, evaluated):
            self._console.print(f"going on from {where}")
        return Begin(found.step, found.state, evaluated, left_out, measured=found.step)

    def _is_over(self, step: int, evaluated: bool) -> bool:
        return step == self._end and (evaluated or not self._evaluate_at(step))

    def _part(self, begin: Begin) -> int:
        """From there to the end; the step that was reached."""
        run, primary = self._experiment, distributed.primary()
        host, batches = run.training_batches(
            begin.step + begin.left_out, self._end + begin.left_out
        )
        written = MetricsWriter(self._folder, begin.measured, self._warn) if primary else None
        self._line.begin(begin.step, self._end)
        self._line.phase("starting", brief=True)
        spikes = Spikes(run.train.spike)
        for line in written.lines if written else ():
            if "train/loss" in line:
                spikes.height(line["train/loss"])
        told: dict[str, Any] = {}  # of the last checkpoint
        now: dict[str, float] = {}  # measured at the last step that anything was

        def log(step: int, values: Mapping[str, float]) -> None:
            if "train/loss" in values:
                height = spikes.height(values["train/loss"])
                spike = {} if height is None else {"diag/loss_spike": height}
                values = {**values, "perf/bad_images": host.bad} | spike
                self._line.update(step, values)
                if spike:
                    self._warn(
                        f"step {step}: the loss {values['train/loss']:.4g} is a spike, "
                        f"{height:.0f} deviations above those before"
                    )
            if now.get("step") != step:
                now.clear()
            now.update(values, step=step)
            if written:
                written.write(step, values)

        def save(current: TrainState, step: int, evaluated: bool) -> None:
            if written:
                written.sync()
            said = self._metadata() | {"evaluated": evaluated, "left_out": begin.left_out}
            told.update(said)
            self._owing = not evaluated
            self._line.phase("saving", brief=True)
            self._checkpoints.save(step, current, said, now if now.get("step") == step else {})

        def evaluate(current: TrainState, step: int) -> dict[str, float]:
            return self._evaluate(current, step, written.last if written else {})

        def examples() -> Iterator[Any]:
            for batch in run.examples():
                self._stop.check()
                yield batch

        def leave(current: TrainState, step: int, evaluated: bool) -> None:
            """Called in another thread, where this one hears nothing."""
            with jax.set_mesh(self._mesh):
                save(current, step, evaluated)
            self._checkpoints.finish()
            self._console.print(f"saved at step {step}; the same command goes on from there")

        def interruptible(
            current: TrainState | None, step: int, evaluated: bool
        ) -> AbstractContextManager:
            if current is None:
                return self._stop.region(UNTOUCHED if step == 0 else SAVED)
            return self._stop.region(
                f"the state of step {step} is saved first",
                functools.partial(leave, current, step, evaluated),
            )

        at, every = run.objective.refresh_steps(), run.checkpoint.every
        hooks = loop.Hooks(
            evaluate=evaluate,
            evaluate_at=self._evaluate_at,
            save=save,
            save_at=lambda step: step == self._end or bool(every and step and step % every == 0),
            log=log,
            refresh=lambda current: self._refresh(current, examples),
            refresh_at=lambda step: step in at,
            at=self._at,
            end_at=self._stop.due,
            interruptible=interruptible,
        )
        with (
            written or contextlib.nullcontext(),
            contextlib.closing(self._profile),
            contextlib.closing(host),
        ):
            last, reached = loop.run(
                begin.state,
                self._step,
                batches,
                hooks,
                start=begin.step,
                stop=self._end,
                batch_size=run.spec.global_batch,
                log_every=run.train.log_every,
                evaluated=begin.evaluated,
                mfu=self._mfu,
            )
            for _ in range(RETRIES):  # the last state is worth some patience
                self._checkpoints.wait()
                if not self._checkpoints.failed or jax.process_count() > 1:
                    break
                time.sleep(PAUSE)
                if told:
                    save(last, reached, told["evaluated"])
        self.last = written.last if written else {}
        return reached

    def _evaluate_at(self, step: int) -> bool:
        every = self._experiment.evals.every
        due = step in (0, self._total) or (every > 0 and step % every == 0)
        return every >= 0 and due and bool(self._experiment.evals.protocols)

    def _evaluate(
        self, current: TrainState, step: int, last: Mapping[str, float]
    ) -> dict[str, float]:
        encoder = self._objective.encoder(current.params, current.extra)
        if step == 0:  # what fails here would fail always
            which = (
                "network at the start" if self._experiment.train.init_from else "untrained network"
            )
            self._measuring = f"measuring the {which} and raw pixels"
            return self._quality.baselines(encoder)
        self._measuring = f"evaluating step {step}"
        try:
            found = alarmed(self._console, step, self._quality.measure(encoder), last)
        except Exception as e:
            if jax.process_count() > 1:
                raise  # the others are in the middle of it
            with contextlib.suppress(OSError), (self._folder / ERRORS).open("a") as file:
                file.write(f"evaluation at step {step}\n{traceback.format_exc()}\n")
            said = (str(e).splitlines() or [""])[0]
            self._warn(
                f"evaluation at step {step} failed, training goes on: {type(e).__name__}: {said} "
                f"({self._folder / ERRORS} has all of it; `ssl-jax evaluate` makes it up)"
            )
            return {"eval/failed": 1.0}
        if line := evaluation_line(step, found):
            self._say(line)
        return found

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
        """What a checkpoint says of itself."""
        return {
            "method": self._resolved["objective"]["name"],
            "config": self._resolved,
            "data": self._fingerprint,
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        }

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _warn(self, text: str) -> None:
        self._console.print(text, style="bold red")

    def _warn_of_disk(self, text: str) -> None:
        """Each process has its own, so each tells, though only the first has a console."""
        if distributed.primary():
            self._warn(text)
        else:
            name = f"process {jax.process_index()} ({socket.gethostname()})"
            print(f"ssl-jax: {name}: {text}", file=sys.stderr, flush=True)


def alarmed(
    console: Console, step: int, found: Mapping[str, float], last: Mapping[str, float]
) -> dict[str, float]:
    """What was `found` at a step, with `diag/collapse` where there are diagnostics, NaN where they
    are not finite; of a collapse that is new since `last`, all metrics before, the terminal tells.
    """
    numbers, before = (
        {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
        for values, prefix in ((found, "diag/"), (last, "untrained/diag/"))
    )
    if not numbers:
        return dict(found)
    if any(math.isnan(numbers.get(name, 0.0)) for name in SIGNS):
        return {**found, "diag/collapse": math.nan}
    finding = diagnose(numbers, before)
    if finding.kind and finding.kind != last.get("diag/collapse"):
        console.print(f"step {step}: {finding}", style="bold red")
    return {**found, "diag/collapse": float(finding.kind)}


def _mfu(experiment: Experiment, step_fn: Any) -> Callable[[Any, float], Mapping[str, float]]:
    """(batch, steps a second) -> model FLOPs utilisation, where the chip's peak is known."""
    mesh = experiment.mesh
    peak = flops.peak(mesh.devices.flat[0].device_kind)
    work: list[int] = []

    def mfu(batch: Any, pace: float) -> Mapping[str, float]:
        if peak is None:
            return {}
        if not work:  # one more trace of the step, once
            work.append(flops.count(step_fn, experiment.abstract_state, batch))
        return {"perf/mfu": work[0] * pace / (peak * mesh.size)}

    return mfu
