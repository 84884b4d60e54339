"""Numbered parts of a file that is being made, so that a run that was killed need not start anew.

They lie in OUTPUT.parts beside the file: settings.json, and for part k one file of each process,
`k-PROCESS-of-PROCESSES.npz`, which is written under another name and renamed when it is whole.
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
    """Some rows: places (n,) int32 of the examples in their data set, ascending, and their features
    (n, ...).
    """

    examples: np.ndarray
    features: np.ndarray


class Parts:
    """The parts of one file; see `opened`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, number: int) -> bool:
        """Whether a part is there, whole; what is left of another is removed."""
        try:
            self.read(number)
        except OSError:
            for path in self.folder.glob(f"{number:06d}-*"):
                path.unlink(missing_ok=True)
            return False
        return True

    def listed(self, number: int) -> bool:
        """Whether the files of a part are there, whole or not."""
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
        """A part, from the files of all processes.

        Raises:
          OSError: it is not there, or not whole.
        """
        found = [self._load(name) for name in self._files(number)]
        if len(found) == 1:
            return found[0]
        examples = np.concatenate([rows.examples for rows in found])
        order = np.argsort(examples)
        return Rows(examples[order], np.concatenate([rows.features for rows in found])[order])

    def examples(self, number: int) -> np.ndarray:
        """The places of the examples of a part, ascending."""
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
            raise OSError(f"{self.folder / name} is damaged: {e}") from None

    def _files(self, number: int) -> list[str]:
        """Names of the files of a part, those of one number of processes."""
        there = {path.name for path in self.folder.glob(f"{number:06d}-*.npz")}
        for name in sorted(there):
            count = int(name.removesuffix(".npz").rpartition("-")[2])
            every = [self._name(number, process, count) for process in range(count)]
            if there.issuperset(every):
                return every
        raise FileNotFoundError(f"{self.folder} holds no part {number}")

    @staticmethod
    def _name(number: int, process: int, count: int) -> str:
        return f"{number:06d}-{process:05d}-of-{count:05d}.npz"


@contextlib.contextmanager
def opened(output: Path, settings: Mapping[str, Any]) -> Iterator[Parts]:
    """The parts of `output`, made by `settings`. Held by one run at a time; the lock goes with the
    process.

    Raises:
      UserError: the folder cannot be written, is held by another run, or has parts of other
        settings; in another process than the first, it does not see what that one wrote.
    """
    folder = output.with_name(f"{output.name}.parts")
    mine = distributed.primary()
    unwritable, busy = f"cannot write to {folder}", f"another run is writing {folder}; wait for it"
    with files.locked(folder, unwritable, busy) if mine else contextlib.nullcontext():
        if mine:
            _begin(folder, settings)
        distributed.barrier(f"parts of {output}")
        if not mine:
            path, wanted = folder / SETTINGS, json.loads(json.dumps(settings))
            await_shared(lambda: _read(path) == wanted, path)
        yield Parts(folder)


def remove(output: Path) -> None:
    """The parts of a file that is whole."""
    folder = output.with_name(f"{output.name}.parts")
    if (folder / SETTINGS).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, or compare them with those that are there."""
    path = folder / SETTINGS
    if path.exists():
        check_same(_read(path), settings, str(folder), "remove that folder")
    elif any(not other.name.startswith(".") for other in folder.iterdir()):
        raise UserError(f"{folder} holds other files; name another --output")
    else:
        files.write_json(path, settings)


def as_before(
    found: Mapping[str, Any] | None,
    wanted: Mapping[str, Any],
    matches: Callable[[str], bool],
) -> Mapping[str, Any]:
    """`wanted`, with the fingerprint of the data in the form in which `found` has it."""
    before = str((found or {}).get("fingerprint", ""))
    return {**wanted, "fingerprint": before} if matches(before) else wanted


def outdated(
    found: Mapping[str, Any], wanted: Mapping[str, Any], matches: Callable[[str], bool]
) -> bool:
    """Whether nothing but the content of as many examples has changed."""
    wanted = as_before(found, wanted, matches)
    keys = {key for key in wanted if found.get(key) != json.loads(json.dumps(wanted[key]))}
    return keys == {"fingerprint"}


def check_same(
    found: Mapping[str, Any] | None, wanted: Mapping[str, Any], where: str, remedy: str
) -> None:
    """Whether what lies there was made by the settings that are `wanted`.

    Raises:
      UserError: it was not; names what differs, and the `remedy`.
    """
    if found is None:
        raise UserError(f"{where} is there already, and no file of features; {remedy}")
    keys = [key for key in wanted if found.get(key) != json.loads(json.dumps(wanted[key]))]
    if keys:
        said = ", ".join(f"{key} (there {found.get(key)}, now {wanted[key]})" for key in keys[:2])
        more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
        raise UserError(
            f"{where} holds features of another {said}{more}; {remedy}, or name another --output"
        )


def await_shared(there: Callable[[], bool], what: Path) -> None:
    """Wait until this process sees what another one wrote.

    Raises:
      UserError: it does not, for `files.SHARED_SECONDS`.
    """
    files.await_shared(
        there,
        f"{what} does not show what another process wrote there: --output must lie on a file "
        "system that all hosts share, and all must be given the same flags and data",
    )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
