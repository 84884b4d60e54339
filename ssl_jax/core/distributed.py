"""Runs of several processes: how they find each other and detect that one is lost or hangs."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.core.watch import LOST, Limits, Stall, Watch, end

FLAGS = {
    "coordinator": "HOST:PORT of process 0; by default from TPU pods, Slurm or Open MPI",
    "num_processes": "number of processes of the run, with --coordinator",
    "process_id": "number of this process, from 0, with --coordinator",
    "start_timeout": "seconds to wait for all processes to start; by default 300",
    "dead_timeout": "seconds of silence after which a process counts as lost; by default 60",
    "stall_timeout": "seconds without progress after which the run ends; by default 3600",
}
T = TypeVar("T")
_watch: "Watch | None" = None
_stall: "Stall | None" = None  # in a run of one process


@dataclass(frozen=True)
class Membership:
    """The place of a process in a run; JAX asks the cluster `method` for values that are None."""

    method: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


@contextlib.contextmanager
def session(flags: Mapping[str, str]) -> Iterator[None]:
    """Connect the processes of a run; enter once, before any device is used. A single process is
    only watched for progress, from the first `at`.

    With several processes it does not return from an error: all of them end with one line and exit
    code 2 for a `UserError`, 75 (`LOST`) if a process was lost, else 1.

    Args:
      flags: `FLAGS` -> their values on the command line, "" if not set.

    Raises:
      UserError: inconsistent flags.
    """
    global _watch, _stall
    place, limits = find(flags), _limits(flags)
    _watch = _connect(place, limits) if place else None
    if _watch is None:
        _stall = Stall(limits.stall)
        _stall.start()
        try:
            yield
        finally:
            _stall.finish()
        return
    _watch.start()
    try:
        yield
    except BaseException as error:
        _watch.fail(error)
    _watch.finish()


def primary() -> bool:
    """True in the process that writes files and prints."""
    return _watch is None or _watch.process == 0


def barrier(name: str) -> None:
    """Wait for all processes; each `name` may be used once per run."""
    if _watch is not None:
        _watch.barrier(name)


def agreed(decide: Callable[[], T]) -> T:
    """Call `decide` in the first process and return its result, a JSON value, in all processes.
    Every process must call this, in the same order.
    """
    return decide() if _watch is None else _watch.agreed(decide)


def at(what: str, step: int) -> None:
    """Record the current activity of this process: "data", "step", "evaluate" ... Costs nothing."""
    if watcher := _watch or _stall:
        watcher.doing = (step, what, time.monotonic())


def tick() -> None:
    """Record progress in the current activity, set by `at`."""
    watcher = _watch or _stall
    if watcher and watcher.doing:
        watcher.doing = (*watcher.doing[:2], time.monotonic())


def find(flags: Mapping[str, str], env: Mapping[str, str] = os.environ) -> Membership | None:
    """Return the place of this process from flags or from its cluster; None for a single process.

    Raises:
      UserError: some of the three flags without the others, or inconsistent numbers.
    """
    named = {key: flags.get(key, "") for key in ("coordinator", "num_processes", "process_id")}
    if any(named.values()):
        for key, value in named.items():
            if not value:
                raise UserError(
                    f"--{key} is missing: --coordinator=HOST:PORT, --num_processes and "
                    "--process_id go together"
                )
        count, mine = _number("num_processes", named), _number("process_id", named)
        if not named["coordinator"].rpartition(":")[2].isdigit():
            raise UserError(f"--coordinator={named['coordinator']}: expected HOST:PORT")
        if not mine < count:
            raise UserError(
                f"--process_id={mine} of --num_processes={count}: expected 0 to {count - 1}"
            )
        return Membership("deactivate", named["coordinator"], count, mine) if count > 1 else None
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if int(env.get("SLURM_NTASKS", 1)) > 1 and all(name in env for name in slurm):
        return Membership("slurm")
    if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return Membership("ompi")
    if env.get("JAX_PLATFORMS", "tpu").startswith("tpu") and _tpu_chips():
        hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
        several = "," in hosts or int(env.get("MEGASCALE_NUM_SLICES", 1)) > 1
        if hosts:
            return Membership("gketpu") if several else None
        return Membership("gcetpu")
    return None


def _tpu_chips() -> bool:
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and not list(Path("/dev").glob("nvidia[0-9]*"))


def _number(key: str, flags: Mapping[str, str]) -> int:
    if not flags[key].isdigit():
        raise UserError(f"--{key}={flags[key]}: expected a whole number")
    return int(flags[key])


def _limits(flags: Mapping[str, str]) -> Limits:
    keys = {"start": "start_timeout", "dead": "dead_timeout", "stall": "stall_timeout"}
    limits = Limits(**{k: _number(flag, flags) for k, flag in keys.items() if flags.get(flag)})
    if min(limits.start, limits.dead, limits.stall) < 1:
        raise UserError("--start_timeout, --dead_timeout and --stall_timeout must be positive")
    return limits


def _connect(place: Membership, limits: Limits) -> "Watch | None":
    """Connect to the other processes; None if the cluster has no others."""
    # Its SIGTERM handler would keep a process alive that should end.
    jax.config.update("jax_enable_preemption_service", False)
    meeting = place.coordinator or f"the coordinator ({place.method})"
    message = (
        f"not all processes reached {meeting} within {limits.start} s; see the logs of the others, "
        "or raise --start_timeout"
    )
    timer = threading.Timer(limits.start, lambda: end(message, LOST))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            cluster_detection_method=place.method,
            initialization_timeout=limits.start + 60,
            heartbeat_timeout_seconds=2 * limits.dead + 10,
        )
    except ValueError as error:
        if place.method == "gcetpu":  # a single TPU host, as in a notebook
            return None
        raise UserError(f"several processes ({place.method}): {error}") from None
    finally:
        timer.cancel()
    # JAX has no public access to its key-value store; orbax uses the same object.
    from jax._src import distributed

    state = distributed.global_state
    watch = Watch(state.client, state.process_id, state.num_processes, limits)
    if state.process_id and state.coordinator_address:
        watch.catch_abort(state.coordinator_address)
    return watch
