"""Command lines: absl flags, and `--config.section.key=value` overrides of a config."""

import ast
import re
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
_ENDLESS = re.compile(r"\d{1000}")  # Python refuses to convert numbers beyond 4300 digits


def parse(
    argv: Sequence[str],
    doc: str | None,
    help_texts: Mapping[str, str],
    configurable: bool = False,
    switches: Collection[str] = (),
    repeated: Collection[str] = (),
    here: bool = True,
) -> tuple[flags.FlagValues, list[Override]]:
    """Parse the flags of a subcommand, each a string, "" if it is not set. A ~ is the user's home
    in all of them. Every subcommand has --trust_code, which takes effect here.

    Args:
      argv: the subcommand's name and its arguments.
      doc: text that `--help` prints above the flags.
      help_texts: flag -> help.
      configurable: whether `--config.section.key=value` is allowed.
      switches: flags of `help_texts` that take no value; False if they are not set.
      repeated: flags that may be set several times; a list of strings.
      here: whether the paths are on this machine; else each ~ stays.

    Returns:
      The flags, and the overrides of the config, (dotted key, `Text`), in order.

    Raises:
      UserError: an unknown flag, a flag without its value, a stray word, or a password in one.
    """
    values = flags.FlagValues()
    help_texts = {**help_texts, trust.FLAG: trust.HELP}
    switches = (*switches, trust.FLAG)
    for name, text in help_texts.items():
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
            print("\n".join(f"  --{name:<20} {text}" for name, text in help_texts.items()))
            sys.exit(0)
        if configurable and word.startswith("--config."):
            key, equals, text = word.removeprefix("--config.").partition("=")
            text = text if equals else next(words, "")
            if not text:
                raise UserError(f"--config.{key}: no value; write --config.{key}=VALUE")
            overrides.append((key, Text(text)))
        else:
            rest.append(word)
    for word in argv:
        name = word.partition("=")[0]
        plain = name.startswith("--") and not credentials.has_credentials(name)
        credentials.refuse(word, name if plain else "the command line")
        if _ENDLESS.search(word):
            raise UserError(f"{name:.40}: a number of a thousand digits or more is out of range")
    try:
        stray = values(rest)[1:]
    except flags.UnrecognizedFlagError as e:
        raise UserError(f"unknown flag --{e.flagname}; {suggest(e.flagname, help_texts)}") from None
    except flags.Error as e:
        raise UserError(" ".join(str(e).split())) from None
    if stray:
        raise UserError(f"stray argument {stray[0]!r}; write flags as --name=value")
    if values[trust.FLAG].value:
        trust.allow()
    return values, overrides


def require(values: flags.FlagValues, name: str, why: str) -> str:
    """Return the value of the flag `name`.

    Raises:
      UserError: it is missing.
    """
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is missing: {why}")
    return str(value)


def whole(name: str, text: str, default: Any = None, least: int = 0) -> Any:
    """Convert the text of the flag `name` to a whole number; `default` if it is "".

    Raises:
      UserError: not a whole number, or below `least`.
    """
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"--{name}={text}: expected a whole number, {least} or more")
    return int(text)


def values(text: str) -> list[Any]:
    """Split "a,b,..." into values: Python literals, also (1, 5),(1, 10), or plain words."""
    return [literal(part) for part in texts(text)]


def texts(text: str) -> list[Text]:
    """Split "a,b,..." at commas outside of brackets and quotes; the parts get the types of their
    keys later.
    """
    listed = f"[{text}]"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on invalid escapes
            body = ast.parse(listed, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return list(map(Text, text.split(",")))
    if not isinstance(body, ast.List):
        return list(map(Text, text.split(",")))
    return [Text(ast.get_source_segment(listed, part) or "") for part in body.elts]
