"""Every key of a config: its value, type, default and one line of help, read from the dataclasses
that declare it.
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ssl_jax import nets
from ssl_jax.core import config as checked
from ssl_jax.run.configs import load_method
from ssl_jax.run.sections import SECTIONS, settle_backbone, settle_objective

_ENTRY = re.compile(r"^(\w+(?:, \w+)*): (.*)$")  # "b1, b2, eps: for adamw and lamb."


@dataclass(frozen=True)
class ConfigKey:
    """One key of a config, as `--config.NAME=VALUE` sets it.

    Attributes:
      name: dotted.
      value: in this config, as a JSON text.
      default: likewise; "" if the key has none.
      kind: the values that it takes, in words; "" for any text.
      help: what the class that declares it says.
    """

    name: str
    value: str
    default: str
    kind: str
    help: str

    @property
    def changed(self) -> bool:
        """True if the config's value is not the default."""
        return self.value != self.default


def keys(config: Mapping[str, Any]) -> Iterator[ConfigKey]:
    """Yield every key of a config, by section: objective, backbone, then the others.

    Raises:
      UserError: an unknown method, backbone, section or key, or an invalid value.
    """
    objective = dict(config.get("objective", {}))
    name = objective.pop("name", "")
    make = load_method(name).make
    owner = getattr(make, "__self__", None)
    yield ConfigKey("objective.name", json.dumps(name), "", "", "method, or the path of its file")
    if isinstance(owner, type):
        values = settle_objective(make, objective)
        own = ("backbone", "spec")  # of the run, not of the config
        yield from _of_class(owner, values, "objective", skip=own)
    backbone = settle_backbone(config.get("backbone", {}))
    network = str(backbone.pop("name", nets.DEFAULT))
    default = json.dumps(nets.DEFAULT)
    known = f"one of {', '.join(nets.BACKBONES)}, or a path"
    text = "the network, or the path of its file"
    yield ConfigKey("backbone.name", json.dumps(network), default, known, text)
    yield from _of_class(nets.backbone_class(network), backbone, "backbone")
    for section, kind in SECTIONS.items():
        yield from _of_class(kind, config.get(section, {}), section)


def _of_class(
    cls: type, values: Mapping[str, Any], where: str, skip: tuple[str, ...] = ()
) -> Iterator[ConfigKey]:
    """Yield the keys of one dataclass, whose values a config sets at `where`."""
    defaults, hints, help_of = checked.defaults(cls), checked.types_of(cls), described(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = f"{where}.{field.name}"
        if field.name in skip or not field.init:
            continue
        default = defaults.get(field.name)
        value = values.get(field.name, default)
        nested = dataclasses.is_dataclass(default) and not isinstance(default, type)
        if nested and (isinstance(value, Mapping) or value == default):
            inside = dataclasses.asdict(default)  # type: ignore[arg-type]
            inside |= value if isinstance(value, Mapping) else {}
            yield from _of_class(type(default), inside, name)
            continue
        text = _text(default) if field.name in defaults else ""
        kind = checked.described(hints[field.name])
        yield ConfigKey(name, _text(value), text, kind, help_of.get(field.name, ""))


def described(cls: type) -> dict[str, str]:
    """Return name -> description of the fields of a dataclass, from the `Attributes` of its
    docstring and of those that it inherits from.
    """
    out: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        lines = inspect.cleandoc(base.__doc__ or "").splitlines()
        start = lines.index("Attributes:") + 1 if "Attributes:" in lines else len(lines)
        names: list[str] = []
        for line in lines[start:]:
            entry = _ENTRY.match(line[2:])
            if line and not line.startswith("  "):
                break
            if entry and not line.startswith("    "):
                names = entry[1].split(", ")
                out |= dict.fromkeys(names, entry[2])
            elif names and line.strip():
                out |= {name: f"{out[name]} {line.strip()}" for name in names}
    return out


def _text(value: Any) -> str:
    return json.dumps(value, default=lambda v: dataclasses.asdict(v))
