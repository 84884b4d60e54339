"""Command lines: absl flags of the types that a dataclass declares, and overrides of a config,
`--config.section.key=value`.

A subcommand declares all of its flags in one dataclass, and `core.config` checks their values as it
checks those of a config:

    @dataclass(frozen=True, kw_only=True)
    class Flags(ConfigFlags):
        output: Path = flag("file to write")  # required
        examples: Count = flag("number of images", 12)
        verify: bool = flag("read every file", False)  # --verify or --noverify
"""

import ast
import dataclasses
import inspect
import re
import shlex
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from ssl_jax.core import config as checked
from ssl_jax.core import credentials, trust
from ssl_jax.core.config import flag
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.files import home
from ssl_jax.core.plain import Text, literal

Override = tuple[str, Any]  # (dotted key, `Text`) of --config.SECTION.KEY=VALUE
OVERRIDES = "overrides"  # the field that holds them, if a subcommand takes any
_ENDLESS = re.compile(r"\d{1000}")  # Python refuses to convert numbers beyond 4300 digits


@dataclass(frozen=True, kw_only=True)
class CommonFlags:
    """Flags of every subcommand."""

    trust_code: bool = flag(
        "also run method, network and config files that lie in the folder of a run", False
    )

    def is_set(self, name: str) -> bool:
        """True if the flag `name`, whose default is empty, has a value."""
        value = getattr(self, name)
        return value is not None and value is not False and value not in ("", ())

    def refuse_both(self, *pairs: tuple[str, str]) -> None:
        """Refuse flags that exclude each other.

        Raises:
          UserError: both flags of a pair are set.
        """
        for name, other in pairs:
            if self.is_set(name) and self.is_set(other):
                raise UserError(f"give --{name} or --{other}, not both")


@dataclass(frozen=True, kw_only=True)
class ConfigFlags(CommonFlags):
    """Flags of subcommands that take a config."""

    overrides: tuple[Override, ...] = flag(
        "any key of the config, --config.optim.lr=0.3", (), shown="config.SECTION.KEY"
    )


F = TypeVar("F", bound=CommonFlags)


def command(subcommand: str, values: CommonFlags) -> str:
    """Return the command line of a subcommand with these flags; defaults are left out."""
    words = ["ssl-jax", subcommand]
    for field in declared(type(values)):
        value = getattr(values, field.name)
        if field.name == OVERRIDES:
            words += [f"--config.{key}={setting}" for key, setting in value]
        elif value == field.default:
            continue
        elif isinstance(value, bool):
            words.append(f"--{'' if value else 'no'}{field.name}")
        elif field.metadata.get("repeated"):
            words += [f"--{field.name}={text}" for text in value]
        else:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"--{field.name}={text}")
    return shlex.join(words)


def parse(argv: Sequence[str], doc: str | None, cls: type[F], here: bool = True) -> F:
    """Parse the flags of a subcommand. A ~ is the user's home in all of them; an empty value leaves
    a flag at its default. --trust_code takes effect here.

    Args:
      argv: the subcommand's name and its arguments.
      doc: text that `--help` prints above the flags.
      cls: the dataclass of the flags.
      here: whether the paths are on this machine; else each ~ stays.

    Raises:
      UserError: an unknown or a missing flag, a value that is missing, of the wrong type or out of
        its range, a stray word, or a password.
    """
    fields = {field.name: field for field in declared(cls)}
    configurable = fields.pop(OVERRIDES, None) is not None
    overrides, rest = [], [argv[0]]
    words = iter([home(word) if here else word for word in argv[1:]])
    for word in words:
        if word in ("--help", "-h"):
            print("\n".join([(doc or "").strip(), "", "flags:", *help_lines(cls)]))
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
    values, hints = _split(rest, fields.values(), cls), checked.types_of(cls)
    untyped = {name: _untyped(value, hints[name]) for name, value in values.items()}
    fixed = {OVERRIDES: tuple(overrides)} if configurable else {}
    made = checked.build(cls, untyped, checked.FLAGS, **fixed)
    if made.trust_code:
        trust.allow()
    return made


def _split(
    words: Sequence[str], fields: Collection[dataclasses.Field], cls: type
) -> dict[str, Any]:
    """Split words into the values of the flags that are set, by absl's rules."""
    values, hints = flags.FlagValues(), checked.types_of(cls)
    for field in fields:
        name, text = field.name, field.metadata["help"]
        if hints[name] is bool:
            switch = flags.Flag(_Switch(), None, name, None, text, boolean=True)
            flags.DEFINE_flag(switch, flag_values=values)
        elif field.metadata.get("repeated"):
            flags.DEFINE_multi_string(name, None, text, flag_values=values)
        else:
            flags.DEFINE_string(name, None, text, flag_values=values)
    try:
        stray = values(words)[1:]
    except flags.UnrecognizedFlagError as e:
        names = [_shown(field) for field in declared(cls)]
        raise UserError(f"unknown flag --{e.flagname}; {suggest(e.flagname, names)}") from None
    except (flags.Error, ValueError) as e:
        raise UserError(" ".join(str(e).split())) from None
    if stray:
        raise UserError(f"stray argument {stray[0]!r}; write flags as --name=value")
    return {f.name: values[f.name].value for f in fields if values[f.name].value not in (None, "")}


class _Switch(flags.BooleanParser):
    """Parser of absl's words for true and false, which leaves other words to be refused later."""

    def parse(self, argument: Any) -> Any:
        try:
            return super().parse(argument)
        except ValueError:
            return argument


def _untyped(value: Any, hint: Any) -> Any:
    """Mark a text whose meaning depends on its type. Names and paths are taken as they are: a
    folder may be called 7 or none.
    """
    verbatim = {*checked.options(hint)} <= {str, Path, type(None)}
    return Text(value) if isinstance(value, str) and not verbatim else value


def declared(cls: type) -> list[dataclasses.Field]:
    """List the fields of a dataclass, its own before inherited ones."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    names = [name for base in cls.__mro__ for name in inspect.get_annotations(base)]
    return [fields[name] for name in dict.fromkeys(names) if name in fields]


def help_lines(cls: type) -> Iterator[str]:
    """Yield one line of help per flag, with its type and default."""
    for field in declared(cls):
        several = field.name == OVERRIDES or field.metadata.get("repeated")
        kind = checked.described(checked.types_of(cls)[field.name])
        notes = [kind] if kind and not several else []
        if field.default is dataclasses.MISSING:
            notes.append("required")
        elif field.default not in (None, False, "", ()):
            default = "true" if field.default is True else field.default
            default = ",".join(default) if isinstance(default, tuple) else default
            notes.append(f"default {default}")
        note = f" ({'; '.join(notes)})" if notes else ""
        yield f"  --{_shown(field):<20} {field.metadata['help']}{note}"


def _shown(field: dataclasses.Field) -> str:
    return str(field.metadata.get("shown", field.name))


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
