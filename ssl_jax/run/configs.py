"""Configs: finding and reading their files, and overriding their keys."""

import dataclasses
import importlib
import importlib.machinery
import json
import pkgutil
import pprint
import sys
import textwrap
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import yaml

import ssl_jax
from ssl_jax import nets, objectives
from ssl_jax.augment.recipes import is_chain, recipe
from ssl_jax.core import config as checked
from ssl_jax.core import trust
from ssl_jax.core.errors import UserError, reason, suggest
from ssl_jax.core.files import home
from ssl_jax.core.inputs import View
from ssl_jax.core.trust import load_file
from ssl_jax.run.sections import (
    SECTIONS,
    settle_backbone,
    settle_objective,
    stored_key,
    stored_objective,
)
from ssl_jax.training import paths

_VIEW = checked.defaults(View)
YAML = (".yaml", ".yml")
NAMES = (
    "objective",
    "backbone",
    "data",
    "control",
    "optim",
    "mesh",
    "train",
    "checkpoint",
    "evals",
)


def methods() -> list[str]:
    """List the names of all methods: the modules of `ssl_jax.objectives`."""
    modules = pkgutil.iter_modules(objectives.__path__)
    return sorted(m.name for m in modules if not m.ispkg and m.name != "base")


def load_method(name: str, run: Path | None = None) -> types.ModuleType:
    """Import the module of a method: one of ours by its name, or the user's own by its file's path.

    A file in the folder of a run, `run` or any other, is executed only with the user's trust
    (`core.trust`).

    Raises:
      UserError: no such method, a file in the folder of a run, or one that defines no `make`.
    """
    if not isinstance(name, str):
        raise UserError(f"objective.name: expected a method's name, got {name!r}")
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserError(f"no method file {name!r}")
        trust.check(Path(name), run)
        module = load_file(Path(name), "method")
        if not hasattr(module, "make"):
            raise UserError(f"{name} is not a method: it defines no make(backbone, spec, **hyper)")
        return module
    if name not in methods():
        raise UserError(f"unknown method {name!r}; {suggest(name, methods())}")
    return importlib.import_module(f"ssl_jax.objectives.{name}")


def configs_folder() -> Path:
    """Folder of the shipped configs: beside the package in a checkout, inside it in a wheel."""
    package = Path(ssl_jax.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def load_config(spec: str) -> dict[str, Any]:
    """Load the config that `spec` names, "PATH.py:RECIPE", "METHOD:RECIPE" or "PATH.yaml", as
    nested plain dicts.

    Raises:
      UserError: no such file, method or recipe; the message suggests existing ones.
    """
    if Path(spec).suffix in YAML:
        return _plain(_read_yaml(Path(spec)))
    _, _, recipe = spec.partition(":")
    module = config_module(config_file(spec))
    config = module.get_config(recipe) if recipe else module.get_config()
    return _plain(config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config)


def config_file(spec: str) -> Path:
    """Return the Python file that `spec`, "PATH.py:RECIPE" or "METHOD:RECIPE", names.

    Raises:
      UserError: no such file, or one in the folder of a run.
    """
    name, _, _ = spec.partition(":")
    candidates = [Path(name), Path("configs") / f"{name}.py", configs_folder() / f"{name}.py"]
    path = next((p for p in candidates if p.suffix == ".py" and p.is_file()), None)
    if path is None:
        names = [p.stem for p in configs_folder().glob("*.py") if p.stem in methods()]
        raise UserError(f"no config {name!r}; {suggest(Path(name).stem, names)}")
    if not path.resolve().is_relative_to(configs_folder().resolve()):
        trust.check(path)
    return path


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the keys that runs store, and the user's home in the place of each ~."""
    plain = dict(config)
    if isinstance(plain.get("objective"), Mapping):
        plain["objective"] = stored_objective(plain["objective"])
    return {key: _homes(value) for key, value in plain.items()}


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as e:
        raise UserError(f"--config={path}: {reason(e)}") from None
    if not isinstance(config, dict):
        raise UserError(f"--config={path}: expected sections (objective: ...), got {config!r:.40}")
    return config


def write_config(path: Path, config: Mapping[str, Any], origin: str) -> None:
    """Write a config to a file that `load_config` reads: .yaml, or .py with a `get_config`.

    Args:
      origin: what the config is from, for the file's first line.

    Raises:
      UserError: a file of another ending, one that exists, or one that cannot be written.
    """
    plain = json.loads(json.dumps(config, default=dataclasses.asdict))
    first = f"Made from {origin} by `ssl-jax config`"
    if path.suffix in YAML:
        text = f"# {first}\n{yaml.safe_dump(plain, sort_keys=False)}"
    elif path.suffix == ".py":
        body = textwrap.indent(pprint.pformat(plain, sort_dicts=False, width=92), " " * 8).strip()
        text = (
            f'"""{first}."""\n\nfrom ml_collections import ConfigDict\n\n\n'
            f"def get_config(recipe=None):\n    return ConfigDict(\n        {body}\n    )\n"
        )
    else:
        raise UserError(f"--save={path}: expected a name that ends in .py, {' or '.join(YAML)}")
    try:
        with path.open("x") as file:
            file.write(text)
    except OSError as e:
        raise UserError(f"cannot write --save={path}: {e.strerror}") from None


def config_module(path: Path) -> types.ModuleType:
    """Import a config file that `trust.check` allows.

    Raises:
      UserError: a syntax error, or no `get_config`.
    """
    _shipped_configs_importable()
    module = load_file(path, "config")
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} is not a config: it defines no get_config(arg)")
    return module


def _homes(value: Any) -> Any:
    """Replace each ~ in the texts of `value` by the user's home."""
    if isinstance(value, dict):
        return {key: _homes(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_homes, value))
    return home(value) if isinstance(value, str) else value


def _shipped_configs_importable() -> None:
    """Make `from configs import common` work in any config file, wherever it is."""
    if "configs" not in sys.modules:
        package = types.ModuleType("configs")
        package.__path__ = [str(configs_folder())]
        package.__spec__ = importlib.machinery.ModuleSpec("configs", None, is_package=True)
        sys.modules["configs"] = package


def override(config: dict[str, Any], overrides: Sequence[tuple[str, Any]]) -> None:
    """Set dotted keys of the nested dicts `config` in place; the texts of a command line are
    converted to the types that their keys declare. Entries of tuples are addressed by index,
    `objective.views.0.size`, and a chain that is given by name can be changed by key:
    `objective.view.recipe.flip`, which may also be written `objective.view.transform.flip`. Another
    `backbone.name` drops the options of the config's own backbone, except the dtype.

    Raises:
      UserError: a key whose section does not exist, or a text that is not a value of its key.
    """
    overrides = [(stored_key(key), value) for key, value in overrides]
    _exchange_backbone(config, dict(overrides))
    for key, value in overrides:
        *sections, last = key.split(".")
        if not sections:
            raise UserError(f"config key {key!r}: no section; write --config.SECTION.KEY=VALUE")
        if sections[0] not in NAMES:
            raise UserError(
                f"unknown config section {sections[0]!r}; " + suggest(sections[0], NAMES)
            )
        if sections[0] == "objective" and len(sections) > 1:
            _fill(config, sections[1])
        at: Any = config
        for depth, section in enumerate(sections):
            at = _enter(at, section, key, depth)
        at[_place(at, last, key)] = value
    for section in {key.partition(".")[0] for key, _ in overrides}:
        config[section] = _settle(section, config[section])


def _exchange_backbone(config: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Drop the options of the config's backbone if `overrides` name another one."""
    section, name = config.get("backbone"), overrides.get("backbone.name")
    if name is None or not isinstance(section, Mapping):
        return
    if not paths.same("backbone.name", section.get("name", nets.DEFAULT), str(name)):
        config["backbone"] = {key: section[key] for key in ("dtype",) if key in section}


def _enter(at: Any, name: str, key: str, depth: int) -> Any:
    """Copy what the dict or list `at` holds at `name`, put the copy in its place and return it. The
    copy is needed because configs use the same view twice.
    """
    place = _place(at, name, key)
    inside = at.get(place) if isinstance(at, dict) else at[place]
    if name == "recipe" and isinstance(inside, str) and depth > 1:
        inside = dataclasses.asdict(recipe(inside))
    elif name == "recipe" and inside is None and depth > 1:
        raise UserError(
            f"config key {key!r}: the config names no chain to change; set it first, "
            f"--config.{key.partition('.recipe')[0]}.recipe=NAME"
        )
    elif isinstance(inside, (list, tuple)):
        inside = list(inside)
    elif isinstance(inside, Mapping) or inside is None:
        inside = dict(inside or {})
    else:
        raise UserError(f"config key {key!r}: {name!r} holds a value, not a section")
    if isinstance(inside, dict) and isinstance(at, list) and key.startswith("objective.views."):
        inside = _VIEW | inside  # an entry has `View`'s defaults, not those of the method's entry
    at[place] = inside
    return inside


def _place(at: Any, name: str, key: str) -> str | int:
    """Convert `name` to a key of the dict, or an index into the list, `at`."""
    if isinstance(at, dict):
        return name
    if not name.isdecimal() or int(name) >= len(at):
        raise UserError(
            f"config key {key!r}: expected a number from 0 to {len(at) - 1}, got {name!r}"
        )
    return int(name)


def _fill(config: dict[str, Any], name: str) -> None:
    """Write the method's own view, views or chain into a config that leaves them out."""
    objective = config.get("objective")
    if not isinstance(objective, dict) or objective.get("name") not in methods():
        return
    make = importlib.import_module(f"ssl_jax.objectives.{objective['name']}").make
    defaults = checked.defaults(make.__self__)
    default = defaults.get(name)
    if name == "views" and name in defaults:
        objective.setdefault(name, [dataclasses.asdict(view) for view in defaults[name]])
    elif isinstance(default, View) and isinstance(objective.get(name, {}), Mapping):
        objective[name] = dataclasses.asdict(default) | dict(objective.get(name, {}))
    elif is_chain(checked.types_of(make.__self__).get(name)):
        chain = objective.get(name, default)
        objective[name] = dataclasses.asdict(recipe(chain)) if isinstance(chain, str) else chain


def _settle(section: str, values: dict[str, Any]) -> dict[str, Any]:
    """Convert the texts of a command line in a section to the types that its keys declare."""
    if section in SECTIONS:
        return checked.settle(SECTIONS[section], values, section)
    if section == "backbone":
        return settle_backbone(values)
    values = {k: str(v) if k == "name" else v for k, v in values.items()}
    if values.get("name") not in methods():
        return values  # a file, whose code runs only when it is built
    return settle_objective(load_method(values["name"]).make, values)


def configured(
    spec: str, overrides: Sequence[tuple[str, Any]], data: str = "", eval_data: str = ""
) -> dict[str, Any]:
    """Load the config that `spec` names; set the command line's data, then the overrides."""
    config = load_config(spec)
    sets = {"data.train": data, "data.eval": eval_data}
    override(config, [(key, value) for key, value in sets.items() if value])
    override(config, overrides)
    return config


def recipes(name: str) -> list[str]:
    """List the recipes that a method's shipped config offers: first the small one, which learns on
    two CPU cores without a download, then the paper's, then the others; [] without a config.

    Raises:
      UserError: the config does not say.
    """
    path = configs_folder() / f"{name}.py"
    if not path.is_file():
        return []
    module = config_module(path)
    if not hasattr(module, "RECIPES"):
        raise UserError(f"{path}: no RECIPES; add common.Recipes(small=..., paper=...)")
    return module.RECIPES.names
