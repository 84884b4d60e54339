"""Configs and the files that they name: found, read, overridden."""

import dataclasses
import importlib
import importlib.machinery
import importlib.util
import pkgutil
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

import ssl_jax
from ssl_jax import objectives
from ssl_jax.augment.recipes import recipe
from ssl_jax.core import config as checked
from ssl_jax.core import trust
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.files import home
from ssl_jax.core.inputs import View
from ssl_jax.run.sections import SECTIONS, settle_backbone, settle_objective

_VIEW = checked.defaults(View)
NAMES = ("objective", "backbone", "data", "optim", "mesh", "train", "checkpoint", "evals")


def methods() -> list[str]:
    """Names of all methods: the modules of `ssl_jax.objectives`."""
    found = pkgutil.iter_modules(objectives.__path__)
    return sorted(m.name for m in found if not m.ispkg and m.name != "base")


def load_method(name: str, run: Path | None = None) -> types.ModuleType:
    """The module of a method: one of ours by its name, or the user's own by the path of its file.

    A file in the folder of a run, of `run` or any other, is executed only for who trusts it
    (`core.trust`).

    Raises:
      UserError: there is none, it lies in the folder of a run, or it defines no `make`.
    """
    if not isinstance(name, str):
        raise UserError(f"objective.name: expected a method's name, got {name!r}")
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserError(f"no method file {name!r}")
        trust.check(Path(name), run)
        module = load_file(Path(name), "method")
        if not hasattr(module, "make"):
            raise UserError(f"{name} is no method: it defines no make(backbone, spec, **hyper)")
        return module
    if name not in methods():
        raise UserError(f"unknown method {name!r}; {suggest(name, methods())}")
    return importlib.import_module(f"ssl_jax.objectives.{name}")


def load_file(path: Path, kind: str) -> types.ModuleType:
    """The module in a file, of which `trust.check` holds; `kind` tells it from others of its name.

    Raises:
      UserError: it is no Python.
    """
    spec = importlib.util.spec_from_file_location(f"ssl_jax_{kind}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except SyntaxError as e:
        raise UserError(f"{path}, line {e.lineno}: {e.msg}") from None
    return module


def configs_folder() -> Path:
    """Where the shipped configs lie: beside the package in a checkout, inside it in a wheel."""
    package = Path(ssl_jax.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def load_config(spec: str) -> dict[str, Any]:
    """The config that `spec` names, "PATH.py:RECIPE" or "METHOD:RECIPE", as nested plain dicts.

    Raises:
      UserError: no such file, method or recipe; lists those there are.
    """
    name, _, recipe = spec.partition(":")
    candidates = [Path(name), Path("configs") / f"{name}.py", configs_folder() / f"{name}.py"]
    path = next((p for p in candidates if p.suffix == ".py" and p.is_file()), None)
    if path is None:
        known = [p.stem for p in configs_folder().glob("*.py") if p.stem in methods()]
        raise UserError(f"no config {name!r}; {suggest(Path(name).stem, known)}")
    if not path.resolve().is_relative_to(configs_folder().resolve()):
        trust.check(path)
    _shipped_configs_importable()
    module = load_file(path, "config")
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} is no config: it defines no get_config(arg)")
    made = module.get_config(recipe) if recipe else module.get_config()
    plain = made.to_dict() if isinstance(made, ml_collections.ConfigDict) else dict(made)
    return {key: _homes(value) for key, value in plain.items()}


def _homes(value: Any) -> Any:
    """`value` with each ~ in its texts as the user's home."""
    if isinstance(value, dict):
        return {key: _homes(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_homes, value))
    return home(value) if isinstance(value, str) else value


def _shipped_configs_importable() -> None:
    """Let any config file say `from configs import common`, wherever it lies itself."""
    if "configs" not in sys.modules:
        package = types.ModuleType("configs")
        package.__path__ = [str(configs_folder())]
        package.__spec__ = importlib.machinery.ModuleSpec("configs", None, is_package=True)
        sys.modules["configs"] = package


def override(config: dict[str, Any], overrides: Sequence[tuple[str, Any]]) -> None:
    """Set dotted keys of the nested dicts `config` in place; the texts of a command line become
    values of the types that their keys declare. Entries of tuples go by their number,
    `objective.views.0.size`, and a chain that goes by its name is changed where it is named:
    `objective.view.recipe.flip`.

    Raises:
      UserError: a key whose section does not exist, or a text that is no value of its key.
    """
    for key, value in overrides:
        *sections, last = key.split(".")
        if not sections:
            raise UserError(
                f"config key {key!r} names no section; write --config.SECTION.KEY=VALUE"
            )
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
        config[section] = _settled(section, config[section])


def _enter(at: Any, name: str, key: str, depth: int) -> Any:
    """What the dict or list `at` holds at `name`, to be changed: a copy, as configs use one view
    twice.
    """
    place = _place(at, name, key)
    inside = at.get(place) if isinstance(at, dict) else at[place]
    if name == "recipe" and isinstance(inside, str) and depth > 1:
        inside = dataclasses.asdict(recipe(inside))
    elif name == "recipe" and inside is None and depth > 1:
        raise UserError(
            f"config key {key!r}: the config names no chain to change; give one before, "
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
    """The key of a dict, or the index into a list, that `name` is."""
    if isinstance(at, dict):
        return name
    if not name.isdecimal() or int(name) >= len(at):
        raise UserError(
            f"config key {key!r}: expected a number from 0 to {len(at) - 1}, not {name!r}"
        )
    return int(name)


def _fill(config: dict[str, Any], name: str) -> None:
    """Write the method's own view, or views, into the config where it leaves them out."""
    objective = config.get("objective")
    if not isinstance(objective, dict) or objective.get("name") not in methods():
        return
    make = importlib.import_module(f"ssl_jax.objectives.{objective['name']}").make
    known = checked.defaults(make.__self__)
    if name == "views" and name in known:
        objective.setdefault(name, [dataclasses.asdict(view) for view in known[name]])
    elif name == "view" and name in known and isinstance(objective.get(name, {}), Mapping):
        objective[name] = dataclasses.asdict(known[name]) | dict(objective.get(name, {}))


def _settled(section: str, values: dict[str, Any]) -> dict[str, Any]:
    if section in SECTIONS:
        return checked.settle(SECTIONS[section], values, section)
    if section == "backbone":
        return settle_backbone(values)
    values = {k: str(v) if k == "name" else v for k, v in values.items()}
    if values.get("name") not in methods():
        return values  # a file: no code of it runs before it is built
    return settle_objective(load_method(values["name"]).make, values)


def configured(
    spec: str, overrides: Sequence[tuple[str, Any]], data: str = "", eval_data: str = ""
) -> dict[str, Any]:
    """The config that `spec` names, with the data of the command line and then the overrides."""
    config = load_config(spec)
    given = {"data.train": data, "data.eval": eval_data}
    override(config, [(key, value) for key, value in given.items() if value])
    override(config, overrides)
    return config


def recipes(name: str) -> list[str]:
    """Recipes of the shipped config of a method: the functions of its file beside `get_config`."""
    path = configs_folder() / f"{name}.py"
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    return [
        line.split("(")[0].removeprefix("def ")
        for line in lines
        if line.startswith("def ") and not line.startswith(("def get_config", "def _"))
    ]
