"""Networks as pure functions over plain dicts; the only place that imports flax."""

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_jax.core import config
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.nets import backbones
from ssl_jax.nets.backbone import Backbone
from ssl_jax.nets.functional import Net
from ssl_jax.nets.layers import compute_dtype

BACKBONES = tuple(sorted(module.name for module in pkgutil.iter_modules(backbones.__path__)))
DEFAULT = "resnet"  # the backbone of a config that does not name one


def is_file(name: Any) -> bool:
    """True if `backbone.name` is the path of a file with a network of the user's own."""
    return isinstance(name, str) and name.endswith(".py")


def backbone_class(name: str, run: Path | None = None) -> type[Backbone]:
    """Return the class of a backbone's config, whose fields are its options.

    Args:
      name: one of `BACKBONES`, or the path of a file (`nets.own`), which is then run.
      run: folder of the run that names it.

    Raises:
      UserError: an unknown backbone, with the nearest known ones; see `own.config_class`.
    """
    if is_file(name):
        from ssl_jax.nets import own

        return own.config_class(Path(name), run)
    if not isinstance(name, str) or name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}; {suggest(str(name), BACKBONES)}")
    made: type[Backbone] = importlib.import_module(f"{backbones.__name__}.{name}").Config
    return made


def backbone_config(name: str, options: Mapping[str, Any], run: Path | None = None) -> Backbone:
    """Build the config of the backbone `name` with these options; `run` as in `backbone_class`.

    Raises:
      UserError: an unknown backbone, option or dtype, with the nearest known ones, or a value of
        the wrong type or out of its range.
    """
    made = backbone_class(name, run)
    try:
        compute_dtype(options.get("dtype"))
    except UserError as e:
        raise UserError(f"backbone.{e}") from None
    return config.build(made, options, "backbone")


def make_backbone(name: str, channels: int, options: Mapping[str, Any]) -> Net:
    """Build the backbone `name` for images of `channels`; see `backbone_config` for errors."""
    return backbone_config(name, options).net(channels)
