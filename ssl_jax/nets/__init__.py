"""Networks as pure functions over plain dicts; the only place that imports flax."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.nets.functional import Net
from ssl_jax.nets.resnet import resnet, resnet_small
from ssl_jax.nets.swin import swin
from ssl_jax.nets.vit import vit

BACKBONES = {make.__name__: make for make in (resnet, resnet_small, swin, vit)}


def make_backbone(name: str, channels: int, options: Mapping[str, Any]) -> Net:
    """The backbone `name` for images of `channels`, with the options of its constructor.

    Raises:
      UserError: an unknown backbone, option or dtype; names the nearest known ones.
    """
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}; {suggest(str(name), BACKBONES)}")
    known = inspect.signature(BACKBONES[name]).parameters.keys() - {"channels"}
    for option in options:
        if option not in known:
            raise UserError(f"backbone: unknown key {option!r}; {suggest(option, known)}")
    options = dict(options)
    if options.get("dtype") is not None:
        try:
            options["dtype"] = jnp.dtype(options["dtype"])
        except TypeError:
            raise UserError(
                f"backbone.dtype: {options['dtype']!r} is no dtype; give 'bfloat16' or 'float32'"
            ) from None
    return BACKBONES[name](channels=channels, **options)
