"""Targets of data2vec (2202.03555): the average of the normalised outputs of several layers."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float, standardize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array
Norm = Literal["none", "batch", "instance", "layer"]

AXES: dict[str, tuple[int, ...]] = {"batch": (-3, -2), "instance": (-2,), "layer": (-1,)}


@any_axes()
def layer_targets(layers: Array, each: Norm = "none", average: Norm = "layer") -> Array:
    """Average layers (K, B, N, D) to targets (B, N, D), in at least float32 (section 3.3).

    Args:
      layers: outputs of K layers for N tokens.
      each: normalisation of each layer, without parameters: "batch" over images and tokens,
        "instance" over the tokens of an image, "layer" over the channels of a token, or "none".
      average: normalisation of the average; the released ImageNet config has "layer" here and
        "none" for `each`.

    Raises:
      ValueError: an unknown normalisation.
    """
    check_shapes("layer_targets: layers (K, B, N, D)", layers)
    for norm in (each, average):
        if norm not in get_args(Norm):
            raise ValueError(f"layer_targets: expected one of {get_args(Norm)}, got {norm!r}")
    return _normalize(jnp.mean(_normalize(as_float(layers), each), axis=0), average)


def _normalize(x: Array, norm: Norm) -> Array:
    return x if norm == "none" else standardize(x, AXES[norm])
