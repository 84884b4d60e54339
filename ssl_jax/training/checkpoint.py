"""Checkpoints of the train state: atomic, written in the background, checked when they are read,
restored onto any mesh.

The only place that imports orbax. A checkpoint is complete once its manifest exists. The manifest
is the last file to be written, after the storage layer has read back which arrays the checkpoint
holds and all files are on the disk. So a checkpoint left incomplete by a dying process or a full
disk is never used. Older checkpoints are removed only after that.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from ssl_jax.core import distributed, tree
from ssl_jax.core.config import check
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.ranges import Count, Whole
from ssl_jax.training import checkpoint_format, manifest
from ssl_jax.training.state import TrainState

# Orbax logs every stage of every save, and the stack trace of every error that it raises as well.
logging.getLogger("absl").addFilter(lambda record: "/orbax/" not in record.pathname)

_log = logging.getLogger(__name__)
SLOW = 30.0  # seconds of waiting for the last save from which a warning is printed
DAMAGED = ".damaged"  # suffix of a folder that was set aside
ASIDE = 3  # number of those to keep
PATIENCE = 600  # seconds that processes wait for another one's part to be written
REMOVED = ".removed"  # suffix of a folder that is being removed
_HALF = ("*.orbax-checkpoint-tmp*", f"*{REMOVED}")
_ODD = re.compile(r"[\[\]*?{}\\\ud800-\udfff]")  # the storage layer reads other names into these


@dataclass(frozen=True)
class CheckpointConfig:
    """The section `checkpoint` of a config.

    Attributes:
      every: steps between saves; 0 saves at the end only.
      wait: make training wait until each save is on the disk, so that a killed run never loses more
        than `every` steps; otherwise the steps made during the save are lost too.
      keep: number of newest checkpoints to keep.
      keep_every: also keep those whose step it divides; 0 for none.
      best: also keep the checkpoint with the highest value of this metric, for example
        "eval/knn_top1", or the lowest with a minus, "-train/loss"; the newest of equal ones. ""
        for none.
    """

    every: Whole = 100
    wait: bool = False
    keep: Count = 2
    keep_every: Whole = 0
    best: str = ""

    def __post_init__(self) -> None:
        check(self, "checkpoint")

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """Return the value that `best` compares, higher is better; None if it was not measured."""
        value = metrics.get(self.best.removeprefix("-")) if self.best else None
        if value is None or not np.isfinite(value):
            return None
        return -float(value) if self.best.startswith("-") else float(value)

    def stay(self, values: Mapping[int, float | None]) -> set[int]:
        """Return the steps of the checkpoints to keep; `values` maps step -> value of `best`."""
        steps = sorted(values)
        stay_steps = set(steps[-self.keep :])
        if self.keep_every:
            stay_steps |= {step for step in steps if step % self.keep_every == 0}
        scored = [(value, step) for step, value in values.items() if value is not None]
        return stay_steps | {max(scored)[1]} if scored else stay_steps


@dataclass(frozen=True)
class Resumed:
    """A state to resume from, with the metadata of its checkpoint."""

    step: int
    state: TrainState
    metadata: Mapping[str, Any]


class Checkpoints:
    """The checkpoints in one folder. A context manager that waits on exit for pending writes.

    Args:
      config: which checkpoints to keep.
      reader: another process may be writing there, so clean nothing up.
      warn: called with one line for each failure that does not end the run.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig = CheckpointConfig(),
        reader: bool = False,
        warn: Callable[[str], None] = _log.warning,
    ):
        self._folder, self._config, self._warn = folder.absolute(), config, warn
        self._alias: tempfile.TemporaryDirectory | None = None
        self._best_missed = False  # whether a missing `best` metric was reported
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._last: int | None = None  # the newest step that this process saved or resumed from
        self.failed: str = ""  # why the newest save was not completed
        if not reader:
            _quiet_aftermath()
            self._clear()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return max(self.steps, default=None)

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending; their files are not verified."""
        return manifest.steps(self._folder)

    def save(
        self,
        step: int,
        state: TrainState,
        metadata: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copy `state` off the devices and write it in the background, after any earlier save; with
        `CheckpointConfig.wait` until that is done.

        A failure is passed to `warn` and stored in `failed`; the run continues. A step that this
        process saved, or resumed from, is not saved again.

        Args:
          metadata: JSON values to store with the checkpoint, the same in every process.
          metrics: measured at this step, possibly with `CheckpointConfig.best`; only those of the
            first process count.
        """
        if step == self._last and not self.failed:
            return
        began = time.monotonic()
        self.wait()
        if (seconds := time.monotonic() - began) > SLOW:
            self._warn(
                f"step {step}: the last checkpoint was still being written; training waited "
                f"{seconds:.0f} s (raise checkpoint.every, or find a faster disk)"
            )
        self._clear()
        self._last, self.failed = step, ""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # In the background, orbax would wait for a folder that cannot be made.
            options = ocp.options.AsyncOptions(
                create_directories_asynchronously=False, timeout_secs=PATIENCE
            )
            with ocp.Context(async_options=options):
                response = ocp.save_async(
                    self._stored(step), state, overwrite=True, custom_metadata=dict(metadata)
                )
        except Exception as e:
            self._fail(step, e)
            return
        self._writing = self._pool.submit(
            self._complete, step, response, shapes, dict(metrics or {})
        )
        if self._config.wait:
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            self._writing.result()

    def finish(self) -> None:
        """Wait for the last save. Warn if no checkpoint has the metric that `CheckpointConfig.best`
        names.

        Raises:
          UserError: the save failed; names the step that the run can resume from.
        """
        self.wait()
        self._clear()
        if self._config.best and distributed.primary():
            try:
                self.check_best()
            except UserError as e:
                self._warn(str(e))
        if self.failed:
            left = self.latest
            rest = "from the start" if left is None else f"from step {left}"
            raise UserError(
                f"the state of step {self._last} could not be saved: {self.failed}; fix that and "
                f"run the same command again, which resumes {rest}"
            )

    def metadata(self, step: int) -> dict[str, Any]:
        """Return the metadata of the checkpoint of `step`.

        Raises:
          UserError: the storage layer does not recognise the folder, or it is of a newer version.
        """
        format = self._format(step)
        try:
            stored = dict(ocp.metadata(self._stored(step)).custom_metadata or {})
        except Exception as e:  # the storage layer raises many types
            raise UserError(f"{self._path(step)} is not a checkpoint: {_reason(e)}") from None
        return checkpoint_format.upgrade(stored, format)

    def restore(self, step: int, abstract: TrainState, placed: TrainState) -> TrainState:
        """Load the state of `step`, with the shapes of `abstract` and the shardings `placed`.

        Raises:
          UserError: the checkpoint is damaged, or does not hold such a state.
        """
        self.wait()
        damage = distributed.agreed(
            lambda: manifest.damage(self._path(step)) if self._exists(step) else "it does not exist"
        )
        if damage:
            others = ", ".join(map(str, (s for s in self.steps if s != step))) or "none"
            raise UserError(
                f"checkpoint {step} in {self._folder} is damaged: {damage}; others: {others}"
            )
        return self._load(step, abstract, placed)

    def resume(self, abstract: TrainState, placed: TrainState) -> Resumed | None:
        """Load the newest checkpoint that is whole and finite; None if none was ever completed.
        Damaged ones are set aside with a warning.

        Raises:
          UserError: all are damaged, or it does not hold such a state.
        """
        self.wait()
        while (step := distributed.agreed(self._newest_whole)) is not None:
            state = self._load(step, abstract, placed)
            if bool(_all_finite(state)):
                self._last, self.failed = step, ""
                return Resumed(step, state, self.metadata(step))
            if distributed.primary():
                self._set_aside(step, "it holds numbers that are not finite")
            distributed.agreed(lambda: None)  # no process looks again before it is gone
        return None

    def stay(self) -> set[int]:
        """Return the steps of the complete checkpoints that `config` keeps."""
        measured = self._measured()
        return self._config.stay({step: self._config.value(m) for step, m in measured.items()})

    def check_best(self) -> None:
        """Check that some checkpoint has the metric that `CheckpointConfig.best` names.

        Raises:
          UserError: none has it.
        """
        name, measured = self._config.best.removeprefix("-"), self._measured()
        names = {metric for metrics in measured.values() for metric in metrics}
        if name and measured and name not in names:
            rest = suggest(name, names - {"step"}) if names else "they have no metrics at all"
            raise UserError(f"checkpoint.best: no checkpoint has the metric {name!r}; {rest}")

    def _measured(self) -> dict[int, dict[str, float]]:
        """Map each complete checkpoint to the metrics measured at its step."""
        return {step: manifest.read(self._path(step)).get("metrics", {}) for step in self.steps}

    def prune(self, damaged: bool = False) -> list[str]:
        """Remove the checkpoints that `config` does not keep and unfinished ones older than the
        newest; return the names of the removed folders.

        With `damaged`, remove those that were set aside and all unfinished ones too; no trainer may
        be running there.
        """
        complete = self.steps
        stay = self.stay()
        gone = [self._path(step) for step in complete if step not in stay]
        newest = max(complete, default=-1)
        half = [step for step in manifest.numbered(self._folder) if step not in complete]
        gone += [self._path(step) for step in half if damaged or step < newest]
        if damaged:
            gone += self._named(f"*{DAMAGED}", *_HALF)
        return [path.name for path in gone if _remove(path)]

    def set_damaged_aside(self) -> None:
        """Verify all complete checkpoints; set damaged ones aside with a warning."""
        for step in self.steps:
            if damage := manifest.damage(self._path(step)):
                self._set_aside(step, damage)

    def _complete(
        self, step: int, response: Any, shapes: TrainState, metrics: Mapping[str, float]
    ) -> None:
        """Finish a written checkpoint in the background: read back, manifest, prune."""
        try:
            response.result()
            if distributed.primary():
                if wrong := _difference(ocp.metadata(self._stored(step)).metadata, shapes):
                    raise OSError(f"it cannot be read back: {wrong}")
                format = checkpoint_format.current()
                manifest.write(self._path(step), format=format, metrics=metrics)
                self._look_for_best(step, metrics)
                self.prune()
            _give_back()
        except Exception as e:  # whatever the storage layer raises, training can continue
            self._fail(step, e)

    def _fail(self, step: int, error: Exception) -> None:
        """Remove a failed save, so that it cannot look complete; `_clear` does the rest."""
        self.failed = _reason(error)
        if distributed.primary():
            _remove(self._path(step))
        self._warn(f"step {step} could not be saved, training continues: {self.failed}")

    def _clear(self) -> None:
        """Remove the remains of failed saves; no save may be in progress."""
        if distributed.primary():
            for half in self._named(*_HALF):
                shutil.rmtree(half, ignore_errors=True)

    def _look_for_best(self, step: int, metrics: Mapping[str, float]) -> None:
        """Warn once about a checkpoint that cannot be the best one."""
        name = self._config.best.removeprefix("-")
        if not name or name in metrics or self._best_missed:
            return
        self._best_missed = True
        names = set(metrics) - {"step"}
        self._warn(
            f"checkpoint.best: {name!r} was not measured at step {step}, so this checkpoint cannot "
            f"be the best; {suggest(name, names) if names else 'nothing was measured'}"
        )

    def _newest_whole(self) -> int | None:
        """Return, in the first process, the newest step whose files match their manifest."""
        finished = 0
        for step in reversed(manifest.numbered(self._folder)):
            finished += (self._path(step) / manifest.NAME).exists()
            damage = manifest.damage(self._path(step))
            if not damage:
                return step
            self._set_aside(step, damage)
        if finished:
            raise UserError(
                f"no checkpoint in {self._folder} is whole (reasons above); restore one, or start "
                "a new run with another --workdir"
            )
        return None

    def _set_aside(self, step: int, reason: str) -> None:
        """Rename a damaged checkpoint, for inspection; keep only the last few of those."""
        asides = self._named(f"*{DAMAGED}")
        for old in sorted(asides, key=lambda path: path.stat().st_mtime)[: 1 - ASIDE]:
            shutil.rmtree(old, ignore_errors=True)
        aside = self._path(step).with_name(f"{step}{DAMAGED}")
        shutil.rmtree(aside, ignore_errors=True)
        self._path(step).rename(aside)
        self._warn(f"checkpoint {step} is not used: {reason}; moved to {aside.name}")

    def _format(self, step: int) -> int:
        read = manifest.read(self._path(step))
        return checkpoint_format.number(read, f"checkpoint {step} in {self._folder}")

    def _load(self, step: int, abstract: TrainState, placed: TrainState) -> TrainState:
        self._format(step)
        target = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, placed
        )
        try:
            # Orbax itself would convert types silently.
            wrong = _difference(ocp.metadata(self._stored(step)).metadata, abstract)
            if not wrong:
                return ocp.load(self._stored(step), target)
        except (ValueError, KeyError, TypeError, OSError) as e:
            wrong = _reason(e)
        raise UserError(f"checkpoint {step} does not fit this run: {wrong}")

    def _exists(self, step: int) -> bool:
        return self._path(step).is_dir()

    def _path(self, step: int) -> Path:
        return self._folder / str(step)

    def _named(self, *patterns: str) -> list[Path]:
        return [path for pattern in patterns for path in self._folder.glob(pattern)]

    def _stored(self, step: int) -> Path:
        """Return the same folder under a name in which the storage layer sees no pattern."""
        if not _ODD.search(str(self._folder)):
            return self._path(step)
        if jax.process_count() > 1:
            return _shared_link(self._folder) / str(step)
        if self._alias is None:
            self._alias = tempfile.TemporaryDirectory(prefix="ssl_jax_")
            Path(self._alias.name, "checkpoints").symlink_to(self._folder)
        return Path(self._alias.name, "checkpoints", str(step))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._pool.shutdown()
        if self._alias is not None:
            self._alias.cleanup()
            self._alias = None


def _shared_link(folder: Path) -> Path:
    """Return a link to `folder` of the same name in all processes, as Orbax saves to one path only.

    It stays: another process on the machine may still use it.
    """
    digest = hashlib.blake2b(str(folder).encode("utf-8", "surrogateescape"), digest_size=8)
    link = Path("/tmp", f"ssl_jax_{os.getuid()}_{digest.hexdigest()}")  # TMPDIR may differ by host
    with contextlib.suppress(FileExistsError):
        link.symlink_to(folder)
    if link.lstat().st_uid != os.getuid() or link.readlink() != folder:
        raise UserError(f"{link} is not ours, but checkpoints in {folder} need it; remove it")
    return link


def _remove(path: Path) -> bool:
    """Remove a folder so that no part of it looks like a checkpoint; return whether it is gone."""
    aside = path if path.name.endswith(REMOVED) else path.with_name(f"{path.name}{REMOVED}")
    with contextlib.suppress(OSError):
        if aside != path:
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        shutil.rmtree(aside)
    return not path.exists()


def _give_back() -> None:
    """Return the memory freed by the threads of a save to the system. Each thread may have its own
    glibc arena, which otherwise keeps it (docs/faults.md: the soak).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _quiet_aftermath() -> None:
    """Silence the stack traces of storage threads that outlive a failed save."""
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    before = sys.unraisablehook
    if getattr(before, "quiet", False):
        return

    def hook(raised: Any) -> None:
        if not (raised.object is None and str(raised.exc_value) == "Event loop is closed"):
            before(raised)

    hook.quiet = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


@jax.jit
def _all_finite(state: TrainState) -> jax.Array:
    flags = [
        jnp.isfinite(leaf).all()
        for leaf in jax.tree.leaves(state)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.stack(flags).all()


def _difference(saved: Any, wanted: TrainState) -> str:
    """Describe the first array that differs, "" if none does."""
    there, here = (
        {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in tree.named_leaves(x).items()}
        for x in (saved, wanted)
    )
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            return f"{name} is {there.get(name, 'missing')}, expected {here.get(name, 'none')}"
    return ""


def _reason(error: Exception) -> str:
    """Return the line of an error that says why; storage layers wrap it in many others."""
    lines: Sequence[str] = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
