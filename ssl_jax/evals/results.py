"""What was measured, one JSON object a line: each carries its whole protocol, and is found again by
it, so that nothing is measured twice.
"""

import fcntl
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import from_json
from ssl_jax.data.files import sample

Record = dict[str, Any]
ANSWER = ("results", "seconds", "versions")  # the rest of a record says what was asked


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


class ResultsFile:
    """One file that several processes may read and append to at once."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[Record]:
        """All records, each question once, in the order they came; a line torn by a crash is left
        out.
        """
        found: dict[str, Record] = {}
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                record = from_json(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("results"), dict):
                found.setdefault(key(record), record)
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
