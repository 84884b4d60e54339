"""Records of measurements, one JSON object per line. Each holds its whole protocol, which is also
its key, so that nothing is measured twice.
"""

import fcntl
import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json, is_number, is_whole
from ssl_jax.data.files import sample

Record = dict[str, Any]
# All other entries of a record are the request.
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
    """Return a digest of the record's request, equal for two measurements that must agree."""
    request = {name: value for name, value in record.items() if name not in ANSWER}
    text = json.dumps(request, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def digest_of(path: Path) -> str:
    """Return a digest of a file's content, or of the names and sizes in a folder and a sample of
    the bytes. A folder of millions of images takes minutes to list.
    """
    digest = hashlib.blake2b(digest_size=8)
    inside = sorted(path.rglob("*")) if path.is_dir() else []
    if (path / "checkpoints").is_dir():  # a run, whose evaluations add files
        inside = [path / "config.json", *sorted((path / "checkpoints").rglob("*"))]
    sizes = [file.stat().st_size for file in inside]
    for file, size in zip(inside, sizes, strict=True):
        digest.update(f"{file.relative_to(path)} {size}\n".encode())
    if inside:
        digest.update(sample(list(map(str, inside)), sizes))
    if path.is_file():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def named_files(
    settings: Mapping[str, Any], digest: Callable[[Path], str] = digest_of
) -> dict[str, str]:
    """Return path -> digest for each file or folder that a setting names. So a change of the file
    makes a different request. The name of a data set, "coco:PATH#part", names the file or folder
    PATH; "NAME=" before it is ignored.

    Args:
      digest: `digest_of`, or a version that caches.
    """
    digests = {}
    for value in settings.values():
        for text in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(text, str) and text and (path := _path(text)).exists():
                digests[text] = digest(path)
    return digests


def _path(text: str) -> Path:
    path = Path(text).expanduser()
    text = text if path.exists() else re.sub(r"^\w+=", "", text)
    path = Path(text).expanduser()
    scheme, _, rest = text.partition(":")
    if path.exists() or not rest or not scheme.isidentifier():
        return path
    path = Path(rest).expanduser()
    return path if path.exists() else Path(rest.rpartition("#")[0] or rest).expanduser()


def _usable(record: Any) -> bool:
    """Return whether a JSON value has the fields of a record."""
    if not isinstance(record, dict):
        return False
    kinds = FIELDS | {name: kind for name, kind in OPTIONAL.items() if name in record}
    if not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        return False
    numbers = [record["results"], *record.get("baselines", {}).values()]
    return is_whole(record["step"]) and all(
        isinstance(group, dict) and all(map(is_number, group.values())) for group in numbers
    )


class ResultsFile:
    """File of records that several processes may read and append to at once."""

    def __init__(self, path: Path):
        self.path = path
        self._reported = 0  # skipped lines

    def read(self) -> list[Record]:
        """Read all records, one per request, in file order. Lines that are torn by a crash, or no
        records, are skipped, with one warning.
        """
        records: dict[str, Record] = {}
        skipped = 0
        data = self.path.read_bytes() if self.path.exists() else b""
        for line in data.splitlines(keepends=True):
            try:
                record = from_json(line)
            except ValueError:
                record = None
            if _usable(record):
                records.setdefault(key(record), record)
            elif line.endswith(b"\n"):  # else another process may still be writing it
                skipped += bool(line.strip())
        if skipped > self._reported:
            _log.warning("%s: skipped %d line(s) that are not results", self.path, skipped)
            self._reported = skipped
        return list(records.values())

    def check(self) -> None:
        """Raise `UserError` if the file has whole lines and none is a record: it is some other
        file, which records would spoil.
        """
        if not self.read() and self.path.exists() and b"\n" in self.path.read_bytes().strip(b"\n"):
            raise UserError(f"{self.path} is no file of results; name another one")

    def append(self, record: Record) -> None:
        """Append a line, atomically for `read`.

        Raises:
          UserError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed
                if file.tell():
                    file.seek(-1, 2)
                    torn = file.read(1) != b"\n"  # by a process that died while writing
                else:
                    torn = False
                line = json.dumps(record, sort_keys=True) + "\n"
                file.write(b"\n" * torn + line.encode())
        except OSError as e:
            raise UserError(f"cannot write {self.path}: {e.strerror}") from None
