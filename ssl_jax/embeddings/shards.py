"""Numbered parts of an unfinished file, so that an interrupted run can resume.

They are in the folder OUTPUT.parts beside the file: settings.json, and for part k one file per
process, `k-PROCESS-of-PROCESSES.npz`, written under a temporary name and renamed when complete.
"""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ssl_jax.core import distributed, files
from ssl_jax.core.errors import UserError

SETTINGS = "settings.json"


class Rows(NamedTuple):
    """Some rows: positions (n,) int32 of the examples in their data set, ascending, and their
    features (n, ...).
    """

    examples: np.ndarray
    features: np.ndarray


class Parts:
    """Parts of one file; see `opened`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, number: int) -> bool:
        """Tell whether a part is complete; remove the remains of an incomplete one."""
        try:
            self.read(number)
        except OSError:
            for path in self.folder.glob(f"{number:06d}-*"):
                path.unlink(missing_ok=True)
            return False
        return True

    def listed(self, number: int) -> bool:
        """Tell whether all files of a part exist, intact or not."""
        try:
            self._files(number)
        except FileNotFoundError:
            return False
        return True

    def write(self, number: int, rows: Rows) -> None:
        """Write this process's rows of a part."""
        path = self.folder / self._name(number, jax.process_index(), jax.process_count())
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, examples=rows.examples, features=rows.features)

    def read(self, number: int) -> Rows:
        """Read a part from the files of all processes.

        Raises:
          OSError: a file is missing or corrupt.
        """
        pieces = [self._load(name) for name in self._files(number)]
        if len(pieces) == 1:
            return pieces[0]
        examples = np.concatenate([rows.examples for rows in pieces])
        order = np.argsort(examples)
        return Rows(examples[order], np.concatenate([rows.features for rows in pieces])[order])

    def examples(self, number: int) -> np.ndarray:
        """Read the positions of the examples of a part, ascending."""
        every = []
        for name in self._files(number):
            with np.load(self.folder / name, allow_pickle=False) as content:
                every.append(content["examples"])
        return np.sort(np.concatenate(every))

    def _load(self, name: str) -> Rows:
        try:
            with np.load(self.folder / name, allow_pickle=False) as content:
                return Rows(content["examples"], content["features"])
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
            raise OSError(f"{self.folder / name} is corrupt: {e}") from None

    def _files(self, number: int) -> list[str]:
        """Return the names of the files of a part, written by one number of processes."""
        present = {path.name for path in self.folder.glob(f"{number:06d}-*.npz")}
        for name in sorted(present):
            count = int(name.removesuffix(".npz").rpartition("-")[2])
            every = [self._name(number, process, count) for process in range(count)]
            if present.issuperset(every):
                return every
        raise FileNotFoundError(f"{self.folder} holds no part {number}")

    @staticmethod
    def _name(number: int, process: int, count: int) -> str:
        return f"{number:06d}-{process:05d}-of-{count:05d}.npz"


@contextlib.contextmanager
def opened(output: Path, settings: Mapping[str, Any]) -> Iterator[Parts]:
    """Open the parts of `output`, made with `settings`. One run at a time holds the lock on them,
    which is released when the process ends.

    Raises:
      UserError: the folder cannot be written, is locked by another run, or holds parts of other
        settings; or this process does not see what the first process wrote.
    """
    folder = output.with_name(f"{output.name}.parts")
    primary = distributed.primary()
    unwritable, busy = f"cannot write to {folder}", f"another run is writing {folder}; wait for it"
    with files.locked(folder, unwritable, busy) if primary else contextlib.nullcontext():
        if primary:
            _begin(folder, settings)
        distributed.barrier(f"parts of {output}")
        if not primary:
            path, expected = folder / SETTINGS, json.loads(json.dumps(settings))
            await_shared(lambda: read_json(path) == expected, path)
        yield Parts(folder)


def remove(output: Path) -> None:
    """Remove the parts of a finished file."""
    folder = output.with_name(f"{output.name}.parts")
    if (folder / SETTINGS).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, or compare them with those in the folder."""
    path = folder / SETTINGS
    if path.exists():
        check_same(read_json(path), settings, str(folder), "remove that folder")
    elif any(not other.name.startswith(".") for other in folder.iterdir()):
        raise UserError(f"{folder} holds other files; choose another --output")
    else:
        files.write_json(path, settings)


def as_before(
    stored: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    matches: Callable[[str], bool],
) -> Mapping[str, Any]:
    """Return `settings`, with the fingerprint in the `stored` ones if it matches the data."""
    fingerprint = str((stored or {}).get("fingerprint", ""))
    return {**settings, "fingerprint": fingerprint} if matches(fingerprint) else settings


def outdated(
    stored: Mapping[str, Any], settings: Mapping[str, Any], matches: Callable[[str], bool]
) -> bool:
    """Tell whether only the fingerprint differs: the data changed, but not their number."""
    settings = as_before(stored, settings, matches)
    keys = {key for key in settings if stored.get(key) != json.loads(json.dumps(settings[key]))}
    return keys == {"fingerprint"}


def check_same(
    stored: Mapping[str, Any] | None,
    expected: Mapping[str, Any],
    location: str,
    remedy: str,
    content: str = "features",
) -> None:
    """Check that existing features, or other `content`, were made with the settings `expected`.

    Raises:
      UserError: they were not; the message names the differences and the `remedy`.
    """
    if stored is None:
        raise UserError(f"{location} exists already and is not a file of {content}; {remedy}")
    keys = [key for key in expected if stored.get(key) != json.loads(json.dumps(expected[key]))]
    if keys:
        texts = (f"{key} (there {stored.get(key)}, now {expected[key]})" for key in keys[:2])
        more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
        raise UserError(
            f"{location} holds {content} made with another {', '.join(texts)}{more}; {remedy}, or "
            "choose another --output"
        )


def await_shared(visible: Callable[[], bool], path: Path) -> None:
    """Wait until this process sees what another process wrote.

    Raises:
      UserError: it does not see it within `files.SHARED_SECONDS`.
    """
    files.await_shared(
        visible,
        f"{path} does not show what another process wrote: --output must be on a file system that "
        "all hosts share, and all hosts need the same flags and data",
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Read the JSON object in a file; None if it holds none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
