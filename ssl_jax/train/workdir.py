"""The folder of one run: its lock, its resolved config, and what may change when a run goes on."""

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssl_jax.core import distributed, files
from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.train import paths

# Where and how often a run computes, logs, evaluates and saves may change between its parts.
FREE = (
    "mesh.",
    "evals.",
    "checkpoint.",
    "data.threads",
    "data.prefetch",
    "train.log_every",
    "train.nonfinite",
    "train.spike",
    "train.stop_at",
)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read_config(workdir: Path) -> dict[str, Any]:
    """The resolved config of the run in `workdir`.

    Raises:
      UserError: there is no run, or its config cannot be read.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(
            f"no run in {workdir}: it holds no config.json; train one with --workdir={workdir}"
        )
    try:
        found = from_json(path.read_text())
    except (OSError, ValueError) as e:
        raise UserError(f"cannot read {path}: {e}") from None
    if not isinstance(found, dict):
        raise UserError(f"cannot read {path}: it holds no JSON object")
    for section, values in found.items():
        if not isinstance(values, dict) and "objective" not in found:
            raise UserError(
                f"no run in {workdir}: its config.json is of something else; weights that lie "
                f"there are read with --weights={workdir}"
            )
        if not isinstance(values, dict):
            raise UserError(f"cannot read {path}: {section} holds {values!r:.80}, not keys")
    return found


def named(text: str) -> list[Path]:
    """The folders that --workdir names: of existing ones the name is enough, whatever is in it;
    else several, by comma and by glob.

    Raises:
      UserError: a pattern that no run matches.
    """
    parts, folders = text.split(","), []  # type: tuple[list[str], list[Path]]
    while parts:
        lengths = range(len(parts), 0, -1)
        there = (n for n in lengths if _is_folder(",".join(parts[:n])))
        count = next(there, 1)
        name, parts = ",".join(parts[:count]), parts[count:]
        if _is_folder(name) or not any(c in name for c in "*?["):
            folders.append(Path(name))  # what reads it says whether it is there
            continue
        matches = sorted(m for m in _matching(Path(name)) if (m / "config.json").is_file())
        if not matches:
            raise UserError(f"--workdir={name}: no run there")
        folders += matches
    return folders


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)  # noqa: PTH112  Path's raises for a name that is too long


def _matching(pattern: Path) -> list[Path]:
    """The paths of a pattern, in which the name of an existing folder stands for itself."""
    found = [Path(pattern.anchor)]
    for part in pattern.relative_to(pattern.anchor).parts:
        every = [[at / part] if (at / part).exists() else at.glob(part) for at in found]
        found = [path for paths in every for path in paths]
    return found


def started(workdir: Path) -> bool:
    """Whether the run has a checkpoint, whole or damaged: one without can start anew, with another
    config.
    """
    return any((workdir / "checkpoints").glob("[0-9]*/manifest.json"))


def check_resumable(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    what: Path | str,
    defaults: Mapping[str, Any] | None = None,
    accept: bool = False,
) -> None:
    """Refuse to go on with a run under a config that would change its result, unless `accept`.

    A key that `old` lacks, as the version that wrote it had none, has its value in `defaults`.

    Args:
      what: holds the run, for the message.

    Raises:
      UserError: names the keys that differ; another method is never accepted.
    """
    name = lambda config: config.get("objective", {}).get("name")  # noqa: E731
    if not paths.same("objective.name", name(old), name(new)):
        raise UserError(
            f"{what} holds a run of {name(old)!r}, not of {name(new)!r}; give another --workdir"
        )
    b, known = flatten(json.loads(json.dumps(new))), flatten(defaults or {})
    a = {key: known[key] for key in b if key in known} | flatten(old)
    changed = [
        key
        for key in sorted(a.keys() | b.keys())
        if not paths.same(key, a.get(key), b.get(key)) and not key.startswith(FREE)
    ]
    if changed and not accept:
        shown = ", ".join(f"{k} (was {a.get(k)!r}, now {b.get(k)!r})" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{what} holds a run with another config: {shown}{more}; "
            "give another --workdir, the old values, or --accept_changes to go on all the same"
        )


@contextlib.contextmanager
def opened(
    workdir: Path,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    accept: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock on `workdir`, made if need be, with `config` written into it; see
    `check_resumable` for `defaults` and `accept`. `check` is called before it is written.

    The lock belongs to the process, the first of several: it goes when the process ends, however it
    ends.

    Raises:
      UserError: not writable, a trainer at work in it, or a run with another config; in another
        process than the first, it does not see what the first one wrote.
    """
    first = distributed.primary()
    prepared = _prepared(workdir, config, defaults, accept, check)
    with prepared if first else contextlib.nullcontext():
        distributed.barrier("workdir")
        if not distributed.primary():
            _check_shared(workdir, config)
        yield


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the lock on `workdir`, made if need be.

    Raises:
      UserError: not writable, or a trainer at work in it.
    """
    busy = f"another trainer is at work in {workdir}; wait for it or give another --workdir"
    with files.locked(workdir, f"cannot write to --workdir={workdir}", busy):
        yield


@contextlib.contextmanager
def _prepared(
    workdir: Path,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any] | None,
    accept: bool,
    check: Callable[[], None],
) -> Iterator[None]:
    with locked(workdir):
        old = read_config(workdir) if (workdir / "config.json").exists() else None
        if old is not None and started(workdir):
            check_resumable(old, config, workdir, defaults, accept)
        check()
        try:
            if old != config:
                files.write_json(workdir / "config.json", config)
        except OSError as e:
            raise UserError(f"cannot write to --workdir={workdir}: {e.strerror}") from None
        yield


def _check_shared(workdir: Path, config: Mapping[str, Any]) -> None:
    """Whether this process sees the config that the first one wrote."""
    files.await_shared(
        lambda: (workdir / "config.json").exists() and read_config(workdir) == config,
        f"--workdir={workdir} on {socket.gethostname()} does not hold the config that process 0 "
        "wrote: it must lie on a file system that all hosts share, and all must be given the same "
        "flags and data",
    )
