"""Command lines: absl flags, and `--config.section.key=value` overrides of a config."""

import ast
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags

from ssl_jax.core import credentials, trust
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.files import home
from ssl_jax.core.plain import Text, literal

Override = tuple[str, Any]


def parse(
    argv: Sequence[str],
    doc: str | None,
    known: Mapping[str, str],
    configurable: bool = False,
    switches: Collection[str] = (),
    repeated: Collection[str] = (),
    here: bool = True,
) -> tuple[flags.FlagValues, list[Override]]:
    """Parse the flags of a subcommand, each a string, "" where it is not given. A ~ is the user's
    home in all of them. --trust_code belongs to every subcommand, and holds from here on.

    Args:
      argv: the subcommand's name and its arguments.
      doc: what `--help` shows above the flags.
      known: flag -> help.
      configurable: whether `--config.section.key=value` is allowed.
      switches: those of `known` that take no value; False where they are not given.
      repeated: those that may be given several times: a list of strings.
      here: whether the paths are of this machine; else each ~ stays.

    Returns:
      The flags, and the overrides of the config, (dotted key, `Text`), in order.

    Raises:
      UserError: an unknown flag, a flag without its value, a stray word, or a password in one.
    """
    values = flags.FlagValues()
    known = {**known, trust.FLAG: trust.HELP}
    switches = (*switches, trust.FLAG)
    for name, text in known.items():
        if name in switches:
            flags.DEFINE_boolean(name, False, text, flag_values=values)
        elif name in repeated:
            flags.DEFINE_multi_string(name, [], text, flag_values=values)
        elif "." not in name:  # "config.SECTION.KEY" stands for the overrides
            flags.DEFINE_string(name, "", text, flag_values=values)
    overrides, rest = [], [argv[0]]
    words = iter([home(word) if here else word for word in argv[1:]])
    for word in words:
        if word in ("--help", "-h"):
            print((doc or "").strip() + "\n\nflags:")
            print("\n".join(f"  --{name:<20} {text}" for name, text in known.items()))
            sys.exit(0)
        if configurable and word.startswith("--config."):
            key, equals, text = word.removeprefix("--config.").partition("=")
            text = text if equals else next(words, "")
            if not text:
                raise UserError(f"--config.{key} has no value; write --config.{key}=VALUE")
            overrides.append((key, Text(text)))
        else:
            rest.append(word)
    for word in argv:
        name = word.partition("=")[0]
        plain = name.startswith("--") and not credentials.has_credentials(name)
        credentials.refuse(word, name if plain else "the command line")
    try:
        stray = values(rest)[1:]
    except flags.UnrecognizedFlagError as e:
        raise UserError(f"unknown flag --{e.flagname}; {suggest(e.flagname, known)}") from None
    except flags.Error as e:
        raise UserError(" ".join(str(e).split())) from None
    if stray:
        raise UserError(f"stray argument {stray[0]!r}: flags are written --name=value")
    if values[trust.FLAG].value:
        trust.allow()
    return values, overrides


def require(values: flags.FlagValues, name: str, why: str) -> str:
    """The value of the flag `name`.

    Raises:
      UserError: it is missing.
    """
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is missing: {why}")
    return str(value)


def whole(name: str, text: str, default: Any = None, least: int = 0) -> Any:
    """The whole number that the flag `name` gives by `text`; `default` where that is "".

    Raises:
      UserError: it is no whole number, or below `least`.
    """
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"--{name}={text}: expected a whole number, {least} or more")
    return int(text)


def values(text: str) -> list[Any]:
    """The values that "a,b,..." holds: Python literals, (1, 5),(1, 10) too, or plain words."""
    return [literal(part) for part in texts(text)]


def texts(text: str) -> list[Text]:
    """The parts of "a,b,...", split at commas outside of brackets and quotes; their types are those
    of the keys that they are for.
    """
    listed = f"[{text}]"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes
            body = ast.parse(listed, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return list(map(Text, text.split(",")))
    if not isinstance(body, ast.List):
        return list(map(Text, text.split(",")))
    return [Text(ast.get_source_segment(listed, part) or "") for part in body.elts]
