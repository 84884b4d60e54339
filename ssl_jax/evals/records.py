"""What was measured, one JSON object a line: each carries its whole protocol, and is found again by
it, so that nothing is measured twice.
"""

import fcntl
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json, is_number, is_whole
from ssl_jax.data.files import sample

Record = dict[str, Any]
# The rest of a record says what was asked.
ANSWER = ("results", "not_finite", "baselines", "config", "seconds", "versions")

FIELDS = {  # of every record
    "workdir": str,
    "method": str,
    "seed": int,
    "step": int,
    "protocol": str,
    "settings": dict,
    "results": dict,
}
OPTIONAL = {"files": dict, "versions": dict, "config": str, "baselines": dict, "not_finite": list}
_log = logging.getLogger(__name__)


def key(record: Mapping[str, Any]) -> str:
    """Of what was asked: equal for two measurements that must agree."""
    asked = {name: value for name, value in record.items() if name not in ANSWER}
    text = json.dumps(asked, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def named_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Path -> digest, of each file or folder that a setting names: of what the file holds, or of
    the names and sizes in the folder and a sample of the bytes. So one that has changed is another
    question.
    """
    found = {}
    for value in settings.values():
        for text in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(text, str) and text and (path := Path(text).expanduser()).exists():
                digest = hashlib.blake2b(digest_size=8)
                inside = sorted(path.rglob("*")) if path.is_dir() else []
                sizes = [one.stat().st_size for one in inside]
                for one, size in zip(inside, sizes, strict=True):
                    digest.update(f"{one.relative_to(path)} {size}\n".encode())
                if inside:
                    digest.update(sample(list(map(str, inside)), sizes))
                if path.is_file():
                    digest.update(path.read_bytes())
                found[text] = digest.hexdigest()
    return found


def _usable(record: Any) -> bool:
    """Whether a JSON value has what every record has."""
    if not isinstance(record, dict):
        return False
    kinds = FIELDS | {name: kind for name, kind in OPTIONAL.items() if name in record}
    if not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        return False
    numbers = [record["results"], *record.get("baselines", {}).values()]
    return is_whole(record["step"]) and all(
        isinstance(some, dict) and all(map(is_number, some.values())) for some in numbers
    )


class ResultsFile:
    """One file that several processes may read and append to at once."""

    def __init__(self, path: Path):
        self.path = path
        self._told = 0  # lines left out

    def read(self) -> list[Record]:
        """All records, each question once, in the order they came; a line torn by a crash, or that
        is no record, is left out, which is said once.
        """
        found: dict[str, Record] = {}
        left_out = 0
        data = self.path.read_bytes() if self.path.exists() else b""
        for line in data.splitlines(keepends=True):
            try:
                record = from_json(line)
            except ValueError:
                record = None
            if _usable(record):
                found.setdefault(key(record), record)
            elif line.endswith(b"\n"):  # else it may be one that is being written
                left_out += bool(line.strip())
        if left_out > self._told:
            _log.warning("%s: %d line(s) that are no results are left out", self.path, left_out)
            self._told = left_out
        return list(found.values())

    def append(self, record: Record) -> None:
        """Add a line: whole, or not at all as far as `read` sees.

        Raises:
          UserError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # goes with the file
                if file.tell():
                    file.seek(-1, 2)
                    torn = file.read(1) != b"\n"  # by a process that died in its write
                else:
                    torn = False
                line = json.dumps(record, sort_keys=True) + "\n"
                file.write(b"\n" * torn + line.encode())
        except OSError as e:
            raise UserError(f"cannot write {self.path}: {e.strerror}") from None
