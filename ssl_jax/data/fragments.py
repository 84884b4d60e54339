"""Fragments: what follows "#" in the name of a data set, `FILE#key=value&key=value`."""

from collections.abc import Sequence
from pathlib import Path

from ssl_jax.core.errors import UserError, suggest


def split_fragment(scheme: str, path: str, keys: Sequence[str]) -> tuple[Path, str, dict[str, str]]:
    """Split `PATH#WORD&key=value`; a "#" in the name of an existing path separates nothing.

    Args:
      keys: the keys that a fragment may have.

    Returns:
      The path, the term without "=" ("" without), and the values by key.

    Raises:
      UserError: an unknown or repeated key, several words, or a key without a value.
    """
    whole = Path(path).expanduser()
    if "#" not in path or whole.exists():
        return whole, "", {}
    text, _, fragment = path.rpartition("#")
    word, values = "", dict[str, str]()
    for term in fragment.split("&"):
        key, equals, value = term.partition("=")
        if (equals or not term or word) and not keys:
            raise UserError(f"{scheme}:{path}: expected the name of a part after '#', got {term!r}")
        if equals and key not in keys:
            raise UserError(f"{scheme}:{path}: unknown {key!r} after '#'; {suggest(key, keys)}")
        if (equals and (key in values or not value)) or (not equals and (word or not term)):
            raise UserError(
                f"{scheme}:{path}: invalid {term!r} after '#'; expected each of "
                f"{', '.join(f'{key}=...' for key in keys)} at most once"
            )
        if equals:
            values[key] = value
        else:
            word = term
    return Path(text).expanduser(), word, values
