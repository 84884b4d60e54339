"""The folder of one run: its lock, its resolved config, and what may change when it resumes."""

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
from ssl_jax.training import paths

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
    """Flatten nested keys: {"a": {"b": 1}} to {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def read_config(workdir: Path) -> dict[str, Any]:
    """Read the resolved config of the run in `workdir`.

    Raises:
      UserError: there is no run, or its config cannot be read.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(
            f"no run in {workdir}: it has no config.json; train one with --workdir={workdir}"
        )
    try:
        config = from_json(path.read_text())
    except (OSError, ValueError) as e:
        raise UserError(f"cannot read {path}: {e}") from None
    if not isinstance(config, dict):
        raise UserError(f"cannot read {path}: expected a JSON object")
    for section, values in config.items():
        if not isinstance(values, dict) and "objective" not in config:
            raise UserError(
                f"no run in {workdir}: its config.json belongs to something else; to read weights "
                f"stored there, use --weights={workdir}"
            )
        if not isinstance(values, dict):
            raise UserError(f"cannot read {path}: {section}: expected keys, got {values!r:.80}")
    return config


def named(text: str) -> list[Path]:
    """List the folders that --workdir names: separated by commas, with glob patterns. The name of
    an existing folder is taken literally, whatever characters it has.

    Raises:
      UserError: no run matches a pattern.
    """
    parts, folders = text.split(","), []  # type: tuple[list[str], list[Path]]
    while parts:
        lengths = range(len(parts), 0, -1)
        there = (n for n in lengths if _is_folder(",".join(parts[:n])))
        count = next(there, 1)
        name, parts = ",".join(parts[:count]), parts[count:]
        if _is_folder(name) or not any(c in name for c in "*?["):
            folders.append(Path(name))  # its reader reports a missing folder
            continue
        matches = sorted(m for m in _matching(Path(name)) if (m / "config.json").is_file())
        if not matches:
            raise UserError(f"--workdir={name}: no run there")
        folders += matches
    return folders


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)  # noqa: PTH112  Path's raises for a name that is too long


def _matching(pattern: Path) -> list[Path]:
    """List the paths that match a pattern; the name of an existing folder is taken literally."""
    config = [Path(pattern.anchor)]
    for part in pattern.relative_to(pattern.anchor).parts:
        every = [[at / part] if (at / part).exists() else at.glob(part) for at in config]
        config = [path for paths in every for path in paths]
    return config


def started(workdir: Path) -> bool:
    """Return whether the run has a checkpoint, whole or damaged. A run without one can start over
    with another config.
    """
    return any((workdir / "checkpoints").glob("[0-9]*/manifest.json"))


def check_resumable(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    what: Path | str,
    defaults: Mapping[str, Any] | None = None,
    accept: bool = False,
) -> None:
    """Refuse to resume a run under a config that would change its result, unless `accept`.

    A key missing from `old`, because an older version wrote it, takes its value from `defaults`.

    Args:
      what: the folder or file with the run, for the message.

    Raises:
      UserError: names the keys that differ; another method is never accepted.
    """
    name = lambda config: config.get("objective", {}).get("name")  # noqa: E731
    if not paths.same("objective.name", name(old), name(new)):
        raise UserError(
            f"{what} holds a run of {name(old)!r}, not of {name(new)!r}; give another --workdir"
        )
    b, default_values = flatten(json.loads(json.dumps(new))), flatten(defaults or {})
    a = {key: default_values[key] for key in b if key in default_values} | flatten(old)
    changed = [
        key
        for key in sorted(a.keys() | b.keys())
        if not paths.same(key, a.get(key), b.get(key)) and not key.startswith(FREE)
    ]
    if changed and not accept:
        differences = ", ".join(f"{k} (was {a.get(k)!r}, now {b.get(k)!r})" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{what} holds a run with another config: {differences}{more}; "
            "give another --workdir, the old values, or --accept_changes to resume anyway"
        )


@contextlib.contextmanager
def opened(
    workdir: Path,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    accept: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the lock on `workdir`, created if missing, with `config` written into it; see
    `check_resumable` for `defaults` and `accept`. `check` is called before the config is written.

    The lock belongs to the process, the first of several, and ends with it, however it ends.

    Raises:
      UserError: `workdir` is not writable, is in use by another trainer, or holds a run with
        another config; in another process than the first: it does not hold what the first wrote.
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
    """Hold the lock on `workdir`, created if missing.

    Raises:
      UserError: it is not writable, or is in use by another trainer.
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
    """Check that this process sees the config that the first one wrote."""
    files.await_shared(
        lambda: (workdir / "config.json").exists() and read_config(workdir) == config,
        f"--workdir={workdir} on {socket.gethostname()} does not hold the config that process 0 "
        "wrote: it must lie on a file system that all hosts share, and all must be given the same "
        "flags and data",
    )
