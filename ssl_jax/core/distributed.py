"""Runs of several processes: how they find each other and detect that one is lost or hangs."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import jax

from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import Count, Matching, Whole
from ssl_jax.core.stop import is_guest
from ssl_jax.core.watch import LOST, Limits, Stall, Watch, end

Address = Annotated[str, Matching(r".*:\d+", "HOST:PORT")]
T = TypeVar("T")
_watch: "Watch | None" = None
_stall: "Stall | None" = None  # in a run of one process


@dataclass(frozen=True, kw_only=True)
class ProcessFlags:
    """Flags of subcommands that may run in several processes."""

    coordinator: Address | None = flag(
        "HOST:PORT of process 0; by default from TPU pods, Slurm or Open MPI", None
    )
    num_processes: Count | None = flag("processes of the run, with --coordinator", None)
    process_id: Whole | None = flag("number of this process, with --coordinator", None)
    start_timeout: Count = flag("seconds to wait for all processes to start", Limits.start)
    dead_timeout: Count = flag(
        "seconds of silence after which a process counts as lost", Limits.dead
    )
    stall_timeout: Count = flag("seconds without progress after which the run ends", Limits.stall)

    @property
    def limits(self) -> Limits:
        return Limits(self.start_timeout, self.dead_timeout, self.stall_timeout)


@dataclass(frozen=True)
class Membership:
    """The place of a process in a run; JAX asks the cluster `method` for values that are None."""

    method: str
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


@contextlib.contextmanager
def session(flags: ProcessFlags) -> Iterator[None]:
    """Connect the processes of a run; enter once, before any device is used. A single process is
    only watched for progress, from the first `at`; within `core.stop.guest` it is not watched.

    With several processes it does not return from an error: all of them end with one line and exit
    code 2 for a `UserError`, 75 (`LOST`) if a process was lost, else 1.

    Raises:
      UserError: inconsistent flags.
    """
    global _watch, _stall
    place, limits = find(flags), flags.limits
    _watch = _connect(place, limits) if place else None
    if _watch is None and is_guest():
        yield
        return
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


def find(flags: ProcessFlags, env: Mapping[str, str] = os.environ) -> Membership | None:
    """Return the place of this process from flags or from its cluster; None for a single process.

    Raises:
      UserError: some of the three flags without the others, or inconsistent numbers.
    """
    coordinator, count, mine = flags.coordinator, flags.num_processes, flags.process_id
    if coordinator is not None and count is not None and mine is not None:
        if mine >= count:
            raise UserError(
                f"--process_id={mine} of --num_processes={count}: expected 0 to {count - 1}"
            )
        return Membership("deactivate", coordinator, count, mine) if count > 1 else None
    named = {"coordinator": coordinator, "num_processes": count, "process_id": mine}
    missing = [name for name, value in named.items() if value is None]
    if len(missing) < len(named):
        raise UserError(
            f"--{missing[0]} is missing: --coordinator=HOST:PORT, --num_processes and "
            "--process_id go together"
        )
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
