"""Paths in a config: absolute, so that a run means the same from any working directory."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.data import files, sources

# Keys whose values name files or data; below `data.streams.` there are more.
KEYS = (
    "data.train",
    "data.eval",
    "data.tokenizer",
    "data.masks",
    "objective.name",
    "backbone.name",
    "train.init_from",
    "train.teacher_from",
)
STREAMS = "data.streams."


def anchored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with absolute paths for the data, files and runs that it names."""
    made = copy.deepcopy(dict(config))
    for key in KEYS:
        section, _, name = key.partition(".")
        value = made.get(section, {}).get(name) if isinstance(made.get(section), dict) else None
        if isinstance(value, str):
            made[section][name] = anchor(key, value)
    streams = made["data"].get("streams") if isinstance(made.get("data"), dict) else None
    if isinstance(streams, dict):
        for name, value in streams.items():
            if isinstance(value, str):
                streams[name] = anchor(STREAMS + name, value)
    return made


def anchor(key: str, value: str) -> str:
    """Return the value of one key, made absolute if it is a path; names stay as they are."""
    if key.startswith((*KEYS[:2], STREAMS)):
        return sources.absolute(value)
    if key in ("objective.name", "backbone.name") and not value.endswith(".py"):
        return value  # a built-in one
    try:
        is_there = bool(value) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        is_there = False
    return files.absolute(value) if is_there else value


def same(key: str, old: Any, new: Any) -> bool:
    """Return whether two values of a key name the same thing.

    Older runs hold relative paths: if the working directory has changed, such a path only has to
    match the end of the other. "#." stands for the whole of a folder.
    """
    if old == new:
        return True
    if not (isinstance(old, str) and isinstance(new, str)) or not key.startswith((*KEYS, STREAMS)):
        return False
    first, second = (anchor(key, value).removesuffix("#.") for value in (old, new))
    if first == second:
        return True
    relative = old.rpartition(":")[2].removesuffix("#.").removeprefix("./").rstrip("/")
    return bool(relative) and relative[0] not in "/~." and second.endswith(f"/{relative}")
