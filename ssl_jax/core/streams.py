"""Standard output and error that never end a command when closed, full or left by their reader."""

import errno
import io
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO


class Enduring(io.TextIOBase):
    """A text stream whose writes do not raise; each write tries again.

    Attributes:
      error: the first system error of a write.
    """

    def __init__(self, stream: TextIO, name: str = ""):
        self._stream, self._name = stream, name
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as e:  # ValueError: the stream was closed
            self._failed(e)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as e:
            self._failed(e)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def _failed(self, error: OSError | ValueError) -> None:
        if not isinstance(error, OSError) or self.error is not None:
            return
        self.error = error
        if self._name and error.errno != errno.EPIPE:
            print(
                f"ssl-jax: {self._name}: {error.strerror}; the command continues, its output there "
                "is lost",
                file=sys.stderr,
                flush=True,
            )

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Closed(io.TextIOBase):
    """Placeholder for a stream that was closed when the process started."""

    encoding = "utf-8"  # type: ignore[assignment]

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


def endure() -> Enduring:
    """Make `sys.stdout` and `sys.stderr` enduring for the whole process; return the former.

    A closed one is replaced by the null device under the same number: otherwise the next file that
    is opened would get that number, and with it the output of libraries.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, _Closed())
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # names may be outside of the locale's encoding
    sys.stderr = Enduring(sys.stderr)
    sys.stdout = out = Enduring(sys.stdout, "standard output")
    return out
