"""Errors that a command line shows as a single line, without a traceback: the user's, and those of
the system.
"""

import difflib
import errno
from collections.abc import Iterable

# Errors of the system that last until a person does something: a name, a disk, a permission.
MENDABLE = (
    "E2BIG EACCES EBUSY EDQUOT EEXIST EFBIG EILSEQ EINVAL EISDIR ELOOP EMFILE ENAMETOOLONG ENFILE "
    "ENODEV ENOENT ENOLCK ENOSPC ENOTDIR ENOTEMPTY ENOTSUP ENXIO EPERM EROFS ETXTBSY EXDEV"
)
_LONG = 100  # characters of a file's name in a message


class AtOnce(int):
    """Exit code of a process that was interrupted: it ends without waiting for what its threads and
    devices still compute.
    """


class UserError(ValueError):
    """What the user asked for cannot be done. The message is one line: what is wrong, and what
    would be right. Characters that would break the line, or steer a terminal, are written out.
    """

    def __init__(self, message: str):
        super().__init__(visible(" ".join(message.split("\n")).rstrip()))


def visible(text: str, plain: str = "") -> str:
    """`text` with the characters written out that no terminal prints, but for those in `plain`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in plain else repr(c)[1:-1] for c in text)


def of_system(error: OSError) -> tuple[str, int] | None:
    """The line for an error of the system and the exit code: 2 where the user can mend it, 1 where
    the same command may succeed later. None for an error that a library raises under that name.
    """
    if error.errno is None:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    short = [n if len(n) <= _LONG else f"{n[: _LONG // 2]}...{n[-_LONG // 2 :]}" for n in names]
    line = f"{' -> '.join(short)}: " if short else ""
    code = 2 if errno.errorcode.get(error.errno, "?") in MENDABLE.split() else 1
    return visible(f"{line}{error.strerror or type(error).__name__}"), code


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'a' or 'b'?` for the known names nearest to `name`, else the list of all of
    them.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "known: " + ", ".join(known)
