"""`ssl-jax completion`: print a script that completes command lines in bash or zsh.

ssl-jax completion bash > ~/.local/share/bash-completion/completions/ssl-jax
ssl-jax completion zsh > ~/.zfunc/_ssl-jax    # with fpath+=~/.zfunc before compinit in ~/.zshrc

It completes subcommands, flags, METHOD:RECIPE after --config=, protocols after --eval=, keys after
--config. and the values of flags with a few. The script lists them all, so that the shell starts
no Python; make it again after an upgrade.
"""

import dataclasses
import importlib
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ssl_jax import cli
from ssl_jax.core import config as checked
from ssl_jax.core.config import flag
from ssl_jax.evals import protocols
from ssl_jax.run import flags as command_line
from ssl_jax.run.configs import methods, recipes
from ssl_jax.run.keys import keys

Shell = Literal["bash", "zsh"]
# Both shells read the same cases: from `command` and `word`, the part of the line before the
# cursor's end, to `values` that may follow `prefix`.
CASES = """\
  local prefix="" values=""
  case "$command $word" in
{cases}
  esac
"""
BASH = """\
# Completion of ssl-jax in bash, written by `ssl-jax completion bash`.
_ssl_jax() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" command="" reply
  local word="${{line##*[[:space:]]}}"  # whole, while bash splits it at = and :
  [[ $COMP_CWORD -gt 1 ]] && command="${{COMP_WORDS[1]}}"
{cases}
  local start=""  # what bash takes for other words, so that a reply may not repeat it
  [[ $COMP_WORDBREAKS == *=* ]] && start="${{word%"${{word##*=}}"}}"
  [[ $COMP_WORDBREAKS == *:* && $word == *:* ]] && start="${{word%"${{word##*:}}"}}"
  COMPREPLY=()
  for reply in $(compgen -W "$values" -- "${{word#"$prefix"}}"); do
    reply="$prefix$reply"
    [[ $reply == *[=.] || $prefix == --eval=* ]] || reply="$reply "
    COMPREPLY+=("${{reply#"$start"}}")
  done
}}
complete -o nospace -o default -F _ssl_jax ssl-jax
"""
ZSH = """\
#compdef ssl-jax
# Completion of ssl-jax in zsh, written by `ssl-jax completion zsh`.
_ssl_jax() {{
  local command="" word="$PREFIX"
  (( CURRENT > 2 )) && command="${{words[2]}}"
{cases}
  PREFIX="${{PREFIX#"$prefix"}}"
  IPREFIX="$IPREFIX$prefix"
  local -a replies
  replies=(${{=values}})
  if (( ${{#replies}} )); then
    compadd -S '' -- ${{(M)replies:#*[=.]}}
    compadd -- ${{replies:#*[=.]}}
  fi
  if (( compstate[nmatches] == 0 )); then
    compset -P '*='
    _files
  fi
}}
if [[ "${{funcstack[1]}}" == _ssl-jax ]]; then
  _ssl_jax "$@"
else
  compdef _ssl_jax ssl-jax
fi
"""


@dataclass(frozen=True, kw_only=True)
class Flags(command_line.CommonFlags):
    shell: Shell = flag("the shell")


def main(argv: list[str]) -> int:
    if len(argv) > 1 and not argv[1].startswith("-"):  # the shell may be named without its flag
        argv = [argv[0], f"--shell={argv[1]}", *argv[2:]]
    shell = command_line.parse(argv, __doc__, Flags).shell
    print(script(shell), end="")
    return 0


def script(shell: Shell) -> str:
    """Return the script for a shell."""
    body = CASES.format(cases="\n".join(f"    {case} ;;" for case in cases())).rstrip()
    return {"bash": BASH, "zsh": ZSH}[shell].format(cases=body)


def cases() -> Iterator[str]:
    """Yield the branches of the script's `case`; the first that matches counts."""
    names = cli.subcommands()
    known = [f"{name}:{recipe}" for name in methods() for recipe in recipes(name)]
    positional: dict[str, Sequence[str]] = {
        "config": known,
        "completion": typing.get_args(Shell),
    }
    sections = [
        f"--config.{key.name}="
        for key in keys({"objective": {"name": methods()[0]}})
        if not key.name.startswith(("objective.", "backbone."))
    ]
    yield f'" "*) values="{" ".join((*names, *cli.HELP[:1], cli.VERSION))}"'
    fields_of = {name: command_line.declared(flags_of(name)) for name in names}
    configurable = [  # one branch of all, as the keys are many
        f'"{name} --config."*'
        for name, fields in fields_of.items()
        if any(field.name == command_line.OVERRIDES for field in fields)
    ]
    yield "|".join(f"{pattern}=*" for pattern in configurable) + ")"
    yield "|".join(configurable) + f') values="{" ".join(sections)}"'
    for name in names:
        cls = flags_of(name)
        for field in fields_of[name]:
            values = choices(field, checked.types_of(cls)[field.name], known)
            if not values:
                continue
            prefix = f"--{field.name}="
            several = field.name == "eval"  # --eval=knn,linear
            before = '"${word%"${word##*[=,]}"}"' if several else prefix
            yield f'"{name} {prefix}"*) prefix={before} values="{" ".join(values)}"'
        if name in positional:
            yield f'"{name} -"*) values="{" ".join(flags(cls))}"'
            yield f'"{name} "*) values="{" ".join(positional[name])}"'
        else:
            yield f'"{name} "*) values="{" ".join(flags(cls))}"'


def flags_of(name: str) -> type:
    """Return the dataclass of a subcommand's flags."""
    cls: type = importlib.import_module(cli.module_of(name)).Flags
    return cls


def choices(field: dataclasses.Field, hint: object, known: Sequence[str]) -> list[str]:
    """Return the values of a flag that are worth listing, [] if it takes others."""
    if field.name == "config":
        return list(known)
    if field.name == "eval":
        return sorted(protocols.known())
    kinds = checked.options(hint)
    return [
        str(value)
        for kind in kinds
        if typing.get_origin(kind) is Literal
        for value in typing.get_args(kind)
    ]


def flags(cls: type) -> list[str]:
    """Return the flags of a subcommand as they are typed; those with a value end in "="."""
    hints, words = checked.types_of(cls), []
    for field in command_line.declared(cls):
        if field.name == command_line.OVERRIDES:
            words.append("--config.")
        elif hints[field.name] is bool:
            words.append(f"--{'no' if field.default is True else ''}{field.name}")
        else:
            words.append(f"--{field.name}=")
    return [*words, "--help"]
