"""Outputs of a backbone, and how a representation is read from them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.layers import at_least_float32

OUTPUTS = ("pooled", "map", "tokens", "patches", "cls", "attention")
_BLOCKS = re.compile(r"cls(\d+)(_avg)?")
POOLED = "pooled"  # the network's own output, which only the last stage has
LARGE = 9600  # most numbers of "large_grid", as of an AlexNet's conv1 in Zhang et al. 2016


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Stage:
    """Output of a stage of a backbone, or of a block of a transformer. A pytree.

    Attributes:
      name: readable name, such as "stage2" or "block7".
      map: (B, h, w, C), or None if some patches were left out.
      tokens: (B, T, C), the class token first if there is one; None for networks without tokens.
      cls: (B, C), the class token after this stage; None if there is none.
      normed_cls: (B, C), the class token after this stage and the network's final norm; None if
        there is none.
    """

    name: str = field(metadata={"static": True})
    map: Array | None = None
    tokens: Array | None = None
    cls: Array | None = None
    normed_cls: Array | None = None

    @property
    def patches(self) -> Array | None:
        """(B, N, C), the tokens of the patches alone, row by row."""
        return _without_cls(self.tokens, self.cls)

    def pool(self, pooling: str) -> Array:
        """Pool the stage to (B, D), float32 at least: "avg", "grid", "large_grid" (see `pool`),
        "cls", or "cls_avg", the class token followed by the mean of the patches.

        Raises:
          UserError: no class token, no map, or an unknown pooling.
        """
        if pooling in ("cls", "cls_avg"):
            if self.cls is None:
                raise UserError(f"probe: pool {pooling!r} needs a backbone with a class token")
            cls = at_least_float32(self.cls)
            return cls if pooling == "cls" else jnp.concatenate([cls, self.pool("avg")], axis=-1)
        return at_least_float32(pool(self.whole_map, pooling))

    @property
    def whole_map(self) -> Array:
        """(B, h, w, C).

        Raises:
          UserError: patches were left out.
        """
        if self.map is None:
            raise UserError(f"probe: {self.name} has no map, as patches were left out")
        return self.map


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Features:
    """Output of a backbone. A pytree: every array has the batch as its first axis.

    Attributes:
      pooled: (B, D), the network's own output, float32 at least.
      map: (B, h, w, C), the last map; None if some patches were left out (`keep`).
      tokens: (B, T, D), the last tokens after the final norm, the class token first if there is
        one, and with `keep` the visible patches only; None for networks without tokens.
      cls: (B, D), the class token among them; None if there is none.
      stages: every stage in order, if the network was called with `stages=True`.
      attention: (B, depth, heads, T, T), what every token attends to in every block, if the
        network was called with `attention=True`.
    """

    pooled: Array
    map: Array | None = None
    tokens: Array | None = None
    cls: Array | None = None
    stages: tuple[Stage, ...] = ()
    attention: Array | None = None

    @property
    def patches(self) -> Array | None:
        """(B, N, D), the tokens of the patches alone, row by row."""
        return _without_cls(self.tokens, self.cls)

    def __getitem__(self, name: str) -> Array:
        """Return an output by name ("pooled", "tokens", "patches", ...), or the map of a stage.

        Raises:
          KeyError: the network has no such output.
        """
        outputs = {name: getattr(self, name) for name in OUTPUTS}
        outputs |= {stage.name: stage.map for stage in self.stages}
        if outputs.get(name) is None:
            raise KeyError(name)
        return outputs[name]

    @property
    def names(self) -> list[str]:
        """Names of the stages, in order."""
        return [stage.name for stage in self.stages]

    def stage(self, number: int) -> Stage:
        """Return a stage by its number; -1 is the last.

        Raises:
          UserError: there is no such stage.
        """
        return self.stages[stage_number(self.names, number)]

    def read(self, number: int, pooling: str) -> Array:
        """Read a representation (B, D), float32 at least, at a stage.

        Args:
          number: see `stage`.
          pooling: "pooled" for the network's own output, which only the last stage has, one of
            `Stage.pool`, or "clsN", the class tokens of the N last blocks, each after the final
            norm, and "clsN_avg", followed by the mean of the last block's patches (DINO).

        Raises:
          UserError: the backbone has no such stage, no class token, or no output of its own there.
        """
        stage = self.stage(number)
        if match := _BLOCKS.fullmatch(pooling):
            return self._class_tokens(stage, int(match[1]), bool(match[2]), pooling)
        if pooling != POOLED:
            return stage.pool(pooling)
        if stage is not self.stages[-1]:
            raise UserError(
                "probe: pool 'pooled' is the network's own output, after its last stage; stage "
                f"{number} has avg, grid, large_grid, cls and cls_avg"
            )
        return at_least_float32(self.pooled)

    def _class_tokens(self, stage: Stage, count: int, with_mean: bool, pooling: str) -> Array:
        """Read "clsN" or "clsN_avg"."""
        if stage is not self.stages[-1] or not 1 <= count <= len(self.stages):
            raise UserError(
                f"probe: pool {pooling!r} reads the last {count} blocks, stage -1; the backbone "
                f"has {len(self.stages)}"
            )
        tokens = [block.normed_cls for block in self.stages[-count:]]
        if any(token is None for token in tokens):
            raise UserError(f"probe: pool {pooling!r} needs a backbone with a class token")
        parts = [at_least_float32(token) for token in tokens if token is not None]
        return jnp.concatenate([*parts, *([stage.pool("avg")] if with_mean else [])], axis=-1)


def stage_number(names: Sequence[str], number: int) -> int:
    """Return the index of a stage among those of `names`; -1 is the last.

    Raises:
      UserError: there is no such stage.
    """
    if not -len(names) <= number < len(names):
        raise UserError(f"probe: no stage {number} among the backbone's {len(names)}")
    return number % len(names)


def pool(x: Array, pooling: str) -> Array:
    """Pool a map (B, h, w, C) to (B, C) by "avg", to (B, 4 C) by "grid": averages over a 2x2 grid,
    or to (B, g g C) by "large_grid": averages over the largest g x g grid of at most 9,600 numbers,
    the size at which Zhang et al. (2016) and Goyal et al. (2019) probe every layer.

    Raises:
      UserError: an unknown pooling.
    """
    if pooling == "avg":
        return x.mean((1, 2))
    if pooling == "grid":
        b, h, w, c = x.shape
        x = x[:, : max(h // 2 * 2, 1), : max(w // 2 * 2, 1)]
        if h < 2 or w < 2:
            return jnp.broadcast_to(x.mean((1, 2))[:, None], (b, 4, c)).reshape(b, -1)
        return x.reshape(b, 2, h // 2, 2, w // 2, c).mean((2, 4)).reshape(b, -1)
    if pooling == "large_grid":
        b, h, w, c = x.shape
        side = max(math.isqrt(LARGE // c), 1)
        x = at_least_float32(x)
        rows, columns = (jnp.asarray(averages(n, min(n, side)), x.dtype) for n in (h, w))
        return jnp.einsum("bhwc,gh,kw->bgkc", x, rows, columns).reshape(b, -1)
    raise UserError(
        f"probe: unknown pooling {pooling!r}; known: pooled, avg, grid, large_grid, cls, cls_avg, "
        "cls4, cls4_avg"
    )


def averages(size: int, parts: int) -> np.ndarray:
    """Return the weights (parts, size) float64 of averages over `parts` intervals that cover
    `size` places; neighbours share a place where the sizes do not divide (PyTorch's
    AdaptiveAvgPool2d).
    """
    part, place = np.arange(parts)[:, None], np.arange(size)
    inside = (place >= part * size // parts) & (place < -(-(part + 1) * size // parts))
    return inside / inside.sum(1, keepdims=True)


def quadrants(maps: Array) -> Array:
    """Average the quarters of maps (B, h, w, C) to (B, 4, C), row by row, float32 at least.

    Maps of less than 8 x 8, such as a ResNet's 7 x 7, are first resized to that, bilinearly; larger
    ones to even sides.
    """
    b, height, width, c = maps.shape
    height, width = (max(8, side + side % 2) for side in (height, width))
    resized = jax.image.resize(
        at_least_float32(maps), (b, height, width, c), "linear", antialias=False
    )
    return pool(resized, "grid").reshape(b, 4, c)


def _without_cls(tokens: Array | None, cls: Array | None) -> Array | None:
    return tokens if tokens is None or cls is None else tokens[:, 1:]
