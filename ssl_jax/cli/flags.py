"""Command lines: absl flags, and `--config.section.key=value` overrides of the config."""

import ast
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from ssl_jax.core.errors import UserError, suggest

Override = tuple[str, Any]


def parse(argv: Sequence[str], doc: str) -> list[Override]:
    """Parse the flags of a subcommand (`argv[0]` is its name) into `absl.flags.FLAGS`.

    Returns:
      The overrides of the config, (dotted key, value), in order.

    Raises:
      UserError: an unknown flag, a flag without its value, or a stray word.
    """
    overrides, rest = [], [argv[0]]
    words = iter(argv[1:])
    for word in words:
        if word in ("--help", "-h"):
            print(f"{doc.strip()}\n\nflags:\n{_help()}")
            sys.exit(0)
        if word.startswith("--config."):
            key, equals, text = word.removeprefix("--config.").partition("=")
            if not equals:
                text = next(words, "")
                if not text:
                    raise UserError(f"--config.{key} has no value; write --config.{key}=VALUE")
            overrides.append((key, _value(text)))
        else:
            rest.append(word)
    try:
        stray = flags.FLAGS(rest)[1:]
    except flags.UnrecognizedFlagError as e:
        raise UserError(f"unknown flag --{e.flagname}; {suggest(e.flagname, _names())}") from None
    except flags.Error as e:
        raise UserError(str(e).replace("\n", " ")) from None
    if stray:
        raise UserError(f"stray argument {stray[0]!r}: flags are written --name=value")
    return overrides


def require(name: str, why: str) -> str:
    """The value of the flag `name`, which must be given.

    Raises:
      UserError: it is missing.
    """
    value = flags.FLAGS[name].value
    if not value:
        raise UserError(f"--{name} is missing: {why}")
    return value


def _value(text: str) -> Any:
    """A Python literal where it is one ("0.1", "(1, 5)", "True"), else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _names() -> list[str]:
    ours = flags.FLAGS.flags_by_module_dict()
    return [f.name for module, group in ours.items() if module.startswith("ssl_jax.") for f in group]


def _help() -> str:
    ours = flags.FLAGS.flags_by_module_dict()
    return "\n".join(
        f"  --{f.name:<12} {f.help}" + (f" (default: {f.default})" if f.default else "")
        for module, group in ours.items()
        if module.startswith("ssl_jax.")
        for f in group
    )
