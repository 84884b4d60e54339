"""Several processes as one run: how they find each other, and how they notice that one is gone or
hangs.
"""

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
    "coordinator": "HOST:PORT of process 0; by default as TPU pods, Slurm and Open MPI tell",
    "num_processes": "processes of the run, with --coordinator",
    "process_id": "number of this one, from 0, with --coordinator",
    "start_timeout": "seconds to wait for all processes to come; by default 300",
    "dead_timeout": "seconds of silence after which a process is given up; by default 60",
    "stall_timeout": "seconds without progress after which the run is given up; by default 3600",
}
T = TypeVar("T")
_watch: "Watch | None" = None
_stall: "Stall | None" = None  # in a process that is alone


@dataclass(frozen=True)
class Place:
    """Where a process stands; None is for JAX to find out from the cluster `method`."""

    method: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


@contextlib.contextmanager
def session(given: Mapping[str, str]) -> Iterator[None]:
    """To be entered once, before any device is touched. One process alone is only watched for
    getting on, from the first `at`.

    With several processes it does not return from an error: all of them end with one line and exit
    code 2 for a `UserError`, 75 (`LOST`) where one was lost, else 1.

    Args:
      given: `FLAGS` -> their values on the command line, "" where they are not given.

    Raises:
      UserError: flags that do not go together.
    """
    global _watch, _stall
    place, limits = find(given), _limits(given)
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
    """Whether this process is the one that writes files and talks to people."""
    return _watch is None or _watch.process == 0


def barrier(name: str) -> None:
    """Wait here for all processes; `name` is used once in a run."""
    if _watch is not None:
        _watch.barrier(name)


def agreed(decide: Callable[[], T]) -> T:
    """What `decide` gives in the first process, in all of them: a JSON value. Every process must
    come by here, in the same order.
    """
    return decide() if _watch is None else _watch.agreed(decide)


def at(what: str, step: int) -> None:
    """Note what this process does now: "data", "step", "evaluate" ... Costs nothing."""
    if watcher := _watch or _stall:
        watcher.doing = (step, what, time.monotonic())


def tick() -> None:
    """Note that what this process is at, `at`, goes on."""
    watcher = _watch or _stall
    if watcher and watcher.doing:
        watcher.doing = (*watcher.doing[:2], time.monotonic())


def find(given: Mapping[str, str], env: Mapping[str, str] = os.environ) -> Place | None:
    """The place of this process from flags or from its cluster; None if it is alone.

    Raises:
      UserError: some of the three flags without the others, or numbers that do not fit.
    """
    named = {key: given.get(key, "") for key in ("coordinator", "num_processes", "process_id")}
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
        return Place("deactivate", named["coordinator"], count, mine) if count > 1 else None
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if int(env.get("SLURM_NTASKS", 1)) > 1 and all(name in env for name in slurm):
        return Place("slurm")
    if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return Place("ompi")
    if env.get("JAX_PLATFORMS", "tpu").startswith("tpu") and _tpu_chips():
        hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
        several = "," in hosts or int(env.get("MEGASCALE_NUM_SLICES", 1)) > 1
        if hosts:
            return Place("gketpu") if several else None
        return Place("gcetpu")
    return None


def _tpu_chips() -> bool:
    found = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(found) and not list(Path("/dev").glob("nvidia[0-9]*"))


def _number(key: str, given: Mapping[str, str]) -> int:
    if not given[key].isdigit():
        raise UserError(f"--{key}={given[key]}: expected a whole number")
    return int(given[key])


def _limits(given: Mapping[str, str]) -> Limits:
    keys = {"start": "start_timeout", "dead": "dead_timeout", "stall": "stall_timeout"}
    limits = Limits(**{k: _number(flag, given) for k, flag in keys.items() if given.get(flag)})
    if min(limits.start, limits.dead, limits.stall) < 1:
        raise UserError("--start_timeout, --dead_timeout and --stall_timeout must be positive")
    return limits


def _connect(place: Place, limits: Limits) -> "Watch | None":
    """Meet the other processes; None where the cluster turns out to have no others."""
    # Its SIGTERM handler would keep a process alive that was told to end.
    jax.config.update("jax_enable_preemption_service", False)
    meeting = place.coordinator or f"the coordinator ({place.method})"
    message = (
        f"not all processes came to {meeting} within {limits.start} s; look at the logs of the "
        "others, or give --start_timeout more seconds"
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
        if place.method == "gcetpu":  # a TPU on its own, as in a notebook
            return None
        raise UserError(f"several processes ({place.method}): {error}") from None
    finally:
        timer.cancel()
    # JAX shows its key-value store nowhere else; orbax takes it from here too.
    from jax._src import distributed

    state = distributed.global_state
    watch = Watch(state.client, state.process_id, state.num_processes, limits)
    if state.process_id and state.coordinator_address:
        watch.catch_abort(state.coordinator_address)
    return watch
