"""Heads that predict the class or other values of each pixel from the maps of a frozen network: a
batch norm and a 1x1 convolution, FCN (1411.4038), UPerNet (1807.10221) and DPT (2103.13413).

Parameters and running statistics are dicts of arrays; every convolution of FCN and UPerNet but the
last is followed by a batch norm and a ReLU, as in mmsegmentation.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.nets.dpt import dpt
from ssl_jax.nets.functional import Net

Array = jax.Array
Params = dict[str, Any]
Kind = Literal["linear", "fcn", "upernet"]

EPS = 1e-5
FORGET = 0.1  # share of a batch in the running statistics
AXES = ("NHWC", "HWIO", "NHWC")  # of convolutions
POOLS = (1, 2, 3, 6)  # sides of the pyramid pooling of UPerNet's last level
PYRAMID = (4.0, 2.0, 1.0, 0.5)  # scales of the maps of a network whose maps have one size


class Head(NamedTuple):
    """A head for maps of certain widths.

    Attributes:
      kind: see the module.
      widths: channels of the maps.
      channels: channels of its own convolutions.
      classes: C.
    """

    kind: Kind
    widths: tuple[int, ...]
    channels: int
    classes: int

    def init(self, seed: int) -> tuple[Params, Params]:
        """Return parameters and running statistics, as NumPy arrays."""
        rng, params, stats = np.random.default_rng(seed), Params(), Params()

        def convolution(name: str, side: int, inputs: int, outputs: int) -> None:
            scale = np.sqrt(2 / (side * side * inputs))
            weight = rng.normal(0, scale, (side, side, inputs, outputs))
            params[f"{name}_weight"] = weight.astype(np.float32)
            params[f"{name}_scale"] = np.ones(outputs, np.float32)
            params[f"{name}_offset"] = np.zeros(outputs, np.float32)
            stats[f"{name}_mean"] = np.zeros(outputs, np.float32)
            stats[f"{name}_variance"] = np.ones(outputs, np.float32)

        last = self.channels
        if self.kind == "linear":
            last = sum(self.widths)
            stats |= {"mean": np.zeros(last, np.float32), "variance": np.ones(last, np.float32)}
        elif self.kind == "fcn":
            convolution("conv1", 3, sum(self.widths), self.channels)
            convolution("conv2", 3, self.channels, self.channels)
        else:
            *lower, top = self.widths
            for side in POOLS:
                convolution(f"pool{side}", 1, top, self.channels)
            convolution("bottleneck", 3, top + len(POOLS) * self.channels, self.channels)
            for i, width in enumerate(lower):
                convolution(f"lateral{i}", 1, width, self.channels)
                convolution(f"smooth{i}", 3, self.channels, self.channels)
            convolution("fuse", 3, len(self.widths) * self.channels, self.channels)
        params["weight"] = rng.normal(0, 0.01, (last, self.classes)).astype(np.float32)
        params["bias"] = np.zeros(self.classes, np.float32)
        return params, stats

    def apply(
        self, params: Params, stats: Mapping[str, Array], maps: Sequence[Array], real: Array | None
    ) -> tuple[Array, Params]:
        """Return logits (B, h, w, C) of maps (B, h_i, w_i, D_i), at the size of the first, and the
        running statistics.

        Args:
          real: (B,) bool, images that are no padding: their statistics are used and recorded. None
            uses the running ones.
        """
        fresh = dict(stats)

        def block(name: str, x: Array) -> Array:
            x = jax.lax.conv_general_dilated(
                x,
                params[f"{name}_weight"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = _normed(x, f"{name}_", stats, fresh, real)
            return jax.nn.relu(x * params[f"{name}_scale"] + params[f"{name}_offset"])

        if self.kind == "linear":
            x = _normed(_joined(maps), "", stats, fresh, real)
        elif self.kind == "fcn":
            x = block("conv2", block("conv1", _joined(maps)))
        else:
            x = block("fuse", _joined(_levels(maps, block)))
        return x @ params["weight"] + params["bias"], fresh


class DPTHead(NamedTuple):
    """A batch norm of each of four maps, as frozen maps differ in scale, and DPT; see `nets.dpt`.

    Attributes:
      widths: channels of the maps.
      channels: channels of the fusion blocks.
      classes: C, the outputs.
      reassemble: whether the maps have one size.
      class_token: whether the second half of each map's channels is its class token.
    """

    widths: tuple[int, ...]
    channels: int
    classes: int
    reassemble: bool
    class_token: bool

    @property
    def net(self) -> Net:
        return dpt(self.widths, self.channels, self.classes, self.reassemble, self.class_token)

    def init(self, seed: int) -> tuple[Params, Params]:
        """Return parameters and running statistics, as NumPy arrays."""
        params, _ = jax.device_get(jax.jit(self.net.init)(jax.random.key(seed)))
        stats = Params()
        for i, width in enumerate(self.widths):
            stats[f"{i}_mean"] = np.zeros(width, np.float32)
            stats[f"{i}_variance"] = np.ones(width, np.float32)
        return params, stats

    def apply(
        self, params: Params, stats: Mapping[str, Array], maps: Sequence[Array], real: Array | None
    ) -> tuple[Array, Params]:
        """Return outputs (B, 4 h, 4 w, C), or 16 times the sides of maps of one size, and the
        running statistics; see `Head.apply`.
        """
        fresh = dict(stats)
        normed = [_normed(x, f"{i}_", stats, fresh, real) for i, x in enumerate(maps)]
        return self.net.apply(params, {}, *normed, train=real is not None)[0], fresh


def _normed(
    x: Array, name: str, stats: Mapping[str, Array], fresh: Params, real: Array | None
) -> Array:
    """Normalise maps by the statistics of the `real` images, which `fresh` records, or by the
    running ones.
    """
    mean_name, variance_name = f"{name}mean", f"{name}variance"
    mean, variance = stats[mean_name], stats[variance_name]
    if real is not None:
        where = real[:, None, None, None]
        mean, variance = (f(x, (0, 1, 2), where=where) for f in (jnp.mean, jnp.var))
        for key, value in ((mean_name, mean), (variance_name, variance)):
            fresh[key] = stats[key] + FORGET * (value - stats[key])
    return (x - mean) * jax.lax.rsqrt(variance + EPS)


def _levels(maps: Sequence[Array], block: Any) -> list[Array]:
    """Return UPerNet's levels, from the largest, each with what the smaller ones add."""
    if len({x.shape[1:3] for x in maps}) == 1 and len(maps) == len(PYRAMID):
        maps = [_resized(x, _scaled(x, scale)) for x, scale in zip(maps, PYRAMID, strict=True)]
    *lower, top = maps
    pooled = [top]
    for side in POOLS:
        small = _resized(top, (min(side, top.shape[1]), min(side, top.shape[2])), pool=True)
        pooled.append(_resized(block(f"pool{side}", small), top.shape[1:3]))
    levels = [block("bottleneck", jnp.concatenate(pooled, axis=-1))]
    for i in reversed(range(len(lower))):
        own = block(f"lateral{i}", lower[i])
        levels.insert(0, own + _resized(levels[0], own.shape[1:3]))
    return [*(block(f"smooth{i}", x) for i, x in enumerate(levels[:-1])), levels[-1]]


def _joined(maps: Sequence[Array]) -> Array:
    """Concatenate maps at the size of the first."""
    return jnp.concatenate([_resized(x, maps[0].shape[1:3]) for x in maps], axis=-1)


def _scaled(x: Array, scale: float) -> tuple[int, int]:
    return tuple(max(round(side * scale), 1) for side in x.shape[1:3])  # type: ignore[return-value]


def _resized(x: Array, shape: tuple[int, ...], pool: bool = False) -> Array:
    """Resize maps (B, h, w, D) bilinearly; averaged if they become smaller."""
    if x.shape[1:3] == tuple(shape):
        return x
    return jax.image.resize(x, (len(x), *shape, x.shape[-1]), "linear", antialias=pool)
