"""Errors that the command line shows as a single line without a traceback: user errors and system
errors.
"""

import difflib
import errno
from collections.abc import Iterable

# System errors that last until a person fixes them: a name, a disk, a permission.
MENDABLE = (
    "E2BIG EACCES EBUSY EDQUOT EEXIST EFBIG EILSEQ EINVAL EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE "
    "ENODEV ENOENT ENOLCK ENOSPC ENOTDIR ENOTEMPTY ENOTSUP ENXIO EPERM EROFS ETXTBSY EXDEV"
)
_LONG = 100  # characters of a file's name in a message


class AtOnce(int):
    """Exit code of an interrupted process that does not wait for its threads and devices."""


class UserError(ValueError):
    """Error in the user's request. The message is one line: what is wrong and what would be right.
    Characters that would break the line or control a terminal are escaped.
    """

    def __init__(self, message: str):
        super().__init__(visible(" ".join(message.split("\n")).rstrip()))


def visible(text: str, plain: str = "") -> str:
    """Escape the unprintable characters of `text`, except those in `plain`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in plain else repr(c)[1:-1] for c in text)


def of_system(error: OSError) -> tuple[str, int] | None:
    """Return the message for a system error and the exit code: 2 if the user must fix it, 1 if the
    same command may succeed later. None if a library raised an OSError without an error number.
    """
    if error.errno is None:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    short = [n if len(n) <= _LONG else f"{n[: _LONG // 2]}...{n[-_LONG // 2 :]}" for n in names]
    line = f"{' -> '.join(short)}: " if short else ""
    code = 2 if errno.errorcode.get(error.errno, "?") in MENDABLE.split() else 1
    return visible(f"{line}{error.strerror or type(error).__name__}"), code


def reason(error: Exception) -> str:
    """Return an error's text, without the number and the path that a system error's has."""
    return str(getattr(error, "strerror", None) or error)


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'a' or 'b'?` with the names in `known` nearest to `name`, or if none is
    near, the list of all.
    """
    names = sorted(known)
    lower = {n.lower(): n for n in names}  # "KNN" is near "knn"
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    near = near or difflib.get_close_matches(name.lower(), lower, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(lower.get(n, n)) for n in near) + "?"
    return "known: " + ", ".join(names)
