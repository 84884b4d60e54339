"""Networks as pure functions over plain dicts; the only place that imports flax."""

from collections.abc import Mapping
from typing import Any

from ssl_jax.core import config
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.nets.backbones.resnet import resnet, resnet_small
from ssl_jax.nets.backbones.swin import swin
from ssl_jax.nets.backbones.vit import vit
from ssl_jax.nets.functional import Net
from ssl_jax.nets.layers import compute_dtype

BACKBONES = {make.__name__: make for make in (resnet, resnet_small, swin, vit)}


def make_backbone(name: str, channels: int, options: Mapping[str, Any]) -> Net:
    """Build the backbone `name` for images of `channels`, with the options of its constructor.

    Raises:
      UserError: an unknown backbone, option or dtype, with the nearest known ones, or a value of
        the wrong type.
    """
    if not isinstance(name, str) or name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}; {suggest(str(name), BACKBONES)}")
    try:
        compute_dtype(options.get("dtype"))
    except UserError as e:
        raise UserError(f"backbone.{e}") from None
    made = config.arguments(BACKBONES[name], options, "backbone", fixed=("channels",))
    return BACKBONES[name](channels=channels, **made)
