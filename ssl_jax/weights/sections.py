"""Sections `backbone` of configs: building their networks, and comparing two sections."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ssl_jax.core import config, trust
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Tree
from ssl_jax.nets import (
    BACKBONES,
    DEFAULT,
    backbone_class,
    backbone_config,
    is_file,
    make_backbone,
)
from ssl_jax.nets.functional import Net
from ssl_jax.weights import swin, vit

# Keys of the section `backbone` that change what a network computes, but not its shapes.
UNSEEN = (
    "heads", "mlp", "norm_after_pool", "norm_eps", "padding", "stem", "stride_in_1x1", "window",
)  # fmt: skip
LEAST_EPS = 1e-6  # in float32, a norm with a smaller epsilon is the same
CHANNELS = 4096  # limit for the channels of images


def build(backbone: Mapping[str, Any], channels: int) -> Net:
    """Build the network that a section `backbone` describes."""
    options = dict(backbone)
    return make_backbone(str(options.pop("name", DEFAULT)), channels, options)


def checked(backbone: Any, channels: Any, own_file: str = "") -> dict[str, Any]:
    """Check the network that a file of weights describes, and return its section `backbone`; the
    description may be invalid.

    Args:
      own_file: what the user gives as `backbone.name`. If it is the path of a file, it takes the
        place of the path in the description, whose code is not run unless it is trusted.

    Raises:
      UserError: no such network can be built, or its code is not trusted.
    """
    if not isinstance(backbone, dict) or not isinstance(channels, int):
        raise UserError(f"invalid network: backbone={backbone!r:.80}, channels={channels!r:.80}")
    if not 1 <= channels <= CHANNELS:
        raise UserError(f"images of {channels} channels; expected 1 to {CHANNELS}")
    name = backbone.get("name", DEFAULT)
    if is_file(name) and is_file(own_file):
        backbone = backbone | {"name": own_file}
    elif is_file(name) and not trust.trusted():
        raise UserError(
            f"its network is the code in {name}, which weights do not run; name your copy of that "
            f"file, --config.backbone.name=./{Path(name).name}, or add --{trust.FLAG}"
        )
    try:
        shapes(build(backbone, channels))
    except UserError:
        raise
    except Exception as e:
        raise UserError(f"its backbone cannot be built: {type(e).__name__}: {e}"[:300]) from None
    return backbone


def shapes(net: Net) -> tuple[Tree, Tree]:
    """Return the shapes of (params, stats)."""
    return jax.eval_shape(net.init, jax.random.key(0))


def agree(
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    keys: tuple[str, ...] = UNSEEN,
    section: str = "backbone",
) -> None:
    """Check that two descriptions of a network, with defaults filled in, agree in what shapes do
    not show.

    Args:
      ours, theirs: sections like `backbone` of the config and of the loaded network.
      keys: settings to compare.
      section: where the config has ours, for messages.

    Raises:
      UserError: they differ in one of the `keys`.
    """
    own, other = _settings(ours), _settings(theirs)
    of_file = is_file(str(ours.get("name")))  # nobody knows what its shapes show
    for key in own if of_file else keys:
        if (of_file or key in UNSEEN) and own.get(key) != other.get(key):
            raise UserError(
                f"{section}.{key} is {own.get(key)!r} in the config but {other.get(key)!r} in the "
                f"file, which shapes do not show; set --config.{section}.{key}={other.get(key)}"
            )


def _settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of a section `backbone`, and the heads of a published size."""
    options = dict(backbone)
    name = options.pop("name", DEFAULT)
    if is_file(name):
        return dataclasses.asdict(backbone_config(name, options))
    if name not in BACKBONES:
        return options
    kind = backbone_class(name)
    out = config.defaults(kind) | options
    sizes: Mapping[str, Mapping[Any, Any]] = {"vit": vit.SIZES, "swin": swin.SIZES}
    size = sizes.get(kind.layout, {}).get(out.get("size"))
    if out.get("heads") is None and size is not None:
        out["heads"] = size[2]
    if "norm_eps" in out:
        out["norm_eps"] = max(out["norm_eps"], LEAST_EPS)
    return {name: tuple(v) if isinstance(v, list) else v for name, v in out.items()}
