"""Patch aggregation of BEiT v2 (Peng et al. 2022, arXiv:2208.06366, section 2.3; `CLS` in
beit2/modeling_pretrain.py of microsoft/unilm).
"""

import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.backbones.vit import Config
from ssl_jax.nets.blocks import run_stack, stack
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import LayerNorm, compute_dtype
from ssl_jax.nets.positions import Grid, RelativePositions

SHARED = ("norm", "relative")  # modules of the backbone that its aggregation has too


class PatchAggregation(nnx.Module):
    """See `patch_aggregation`."""

    def __init__(
        self, config: Config, depth: int, layer: int, grid: Grid, own_norm: bool, rngs: nnx.Rngs
    ):
        dim, _, heads, mlp_ratio = config.sizes
        self.grid, self.remat = grid, config.remat
        self.norm = LayerNorm(dim, eps=config.norm_eps)
        self.extra_norm = LayerNorm(dim, eps=config.norm_eps) if own_norm else None
        if config.position == "relative_per_block":
            raise UserError(
                "backbone.position: patch aggregation has no blocks of the backbone, whose own "
                "positions it could use; set 'relative'"
            )
        relative = config.position == "relative"
        self.relative = RelativePositions(config.grid, heads, cls_token=True) if relative else None
        self.blocks = stack(
            depth,
            dim,
            heads,
            mlp_ratio=mlp_ratio,
            layer_scale=config.layer_scale,
            qkv_bias=config.qkv_bias,
            mlp=config.mlp,
            norm_eps=config.norm_eps,
            attention_form=config.attention_form,
            scheme="torch",
            dtype=compute_dtype(config.dtype),
            rngs=rngs,
        )
        number = layer + 1 + jnp.arange(depth, dtype=jnp.float32)  # as if they followed `layer`
        for last in (self.blocks.attn.proj, self.blocks.mlp.fc2):
            last.kernel.set_value(last.kernel[...] / jnp.sqrt(2 * number)[:, None, None])

    def __call__(self, tokens: Array, early: Array, *, train: bool) -> tuple[Array, Array]:
        """Tokens (B, 1 + N, D) of the last block, and patches (B, N, D) of an earlier one -> the
        normed patches (B, N, D) of the last block, and those of the extra blocks.
        """
        del train
        bias = None if self.relative is None else self.relative(self.grid)
        x = jnp.concatenate([tokens[:, :1], early], axis=1)
        x, _ = run_stack(self.blocks, x, self.remat, bias=bias)
        normed = self.norm(x) if self.extra_norm is None else self.extra_norm(x)
        return self.norm(tokens)[:, 1:], normed[:, 1:]


def patch_aggregation(
    config: Config, depth: int, layer: int, grid: Grid, own_norm: bool = False
) -> Net:
    """Extra blocks on the class token of the last block and the patches of block `layer`: what the
    patches lack there must come through the class token.

    `apply(params, stats, tokens, early, train=...)`; shapes: `PatchAggregation.__call__`. The last
    norm and the relative positions, `SHARED`, are those of the backbone: the caller puts its
    parameters in their place.

    As in the release, the linear layers start with PyTorch's default, unlike the backbone's, and
    the last ones of each branch are divided by sqrt(2 * number of the block).

    Args:
      config: that of the backbone, whose options the blocks have, without stochastic depth.
      depth: number of extra blocks.
      layer: number of the block that the patches come from, from 1.
      grid: rows and columns of patches.
      own_norm: norm the extra blocks' patches with a norm of their own, "extra_norm".
    """
    return functional(
        lambda rngs: PatchAggregation(config, depth, layer, grid, own_norm, rngs),
        "patch_aggregation",
    )
