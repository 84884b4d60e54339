"""The one error type that a command line shows as a single line, without a traceback."""

import difflib
from collections.abc import Iterable


class AtOnce(int):
    """Exit code of a process that was interrupted: it ends without waiting for what its threads and
    devices still compute.
    """


class UserError(ValueError):
    """What the user asked for cannot be done. The message is one line: what is wrong, and what
    would be right. Characters that would break the line, or steer a terminal, are written out.
    """

    def __init__(self, message: str):
        line = " ".join(message.split("\n")).rstrip()
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'a' or 'b'?` for the known names nearest to `name`, else the list of all of
    them.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "known: " + ", ".join(known)
