"""Predictors of the tokens at some positions from the tokens at others."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.tree import Array
from ssl_jax.nets.blocks import (
    HIDDEN,
    Remat,
    check_options,
    linear,
    run_stack,
    stack,
    token,
)
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import DType, LayerNorm, at_least_float32, compute_dtype
from ssl_jax.nets.positions import ClipGrid, Grid, fixed_table


class TokenPredictor(nnx.Module):
    """See `token_predictor`."""

    def __init__(
        self,
        encoder_dim: int,
        *,
        dim: int,
        depth: int,
        heads: int,
        grid: Grid | ClipGrid,
        mask_tokens: int,
        mlp_ratio: float,
        remat: Remat,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        options: dict[str, Any] = dict(scheme="normal", dtype=dtype, rngs=rngs)
        self.grid, self.dim, self.remat = grid, dim, remat
        self.embed = linear(encoder_dim, dim, **options)
        self.mask_token = token(0.02, mask_tokens, dim, rngs=rngs)
        self.blocks = stack(depth, dim, heads, mlp_ratio=mlp_ratio, **options)
        self.norm = LayerNorm(dim)
        self.pred = linear(dim, encoder_dim, **options)

    def __call__(
        self,
        tokens: Array,
        places: Array,
        targets: Array,
        visible: Array,
        *,
        train: bool,
        kind: int = 0,
    ) -> Array:
        """Tokens (B, K, encoder_dim) at the positions `places` (B, K), and `targets` (B, M) int,
        the positions to predict -> (B, M, encoder_dim) float32.

        `visible` (B, K + M) bool is false where a token or a target fills up its list: no token
        attends to it. `kind` is the number of the mask token.
        """
        del train
        x = self.embed(tokens)
        table = jnp.asarray(fixed_table(self.dim, self.grid), x.dtype)
        mask_token = self.mask_token[...][:, kind : kind + 1]
        mask_tokens = jnp.asarray(mask_token, x.dtype) + table[targets]
        x = jnp.concatenate([x + table[places], mask_tokens], axis=1)
        bias = jnp.where(visible, 0.0, HIDDEN)[:, None, None]
        x, _ = run_stack(self.blocks, x, self.remat, bias=bias)
        return at_least_float32(self.pred(self.norm(x[:, places.shape[1] :])))


def token_predictor(
    encoder_dim: int,
    dim: int = 384,
    depth: int = 12,
    heads: int = 16,
    *,
    grid: Grid | ClipGrid,
    mask_tokens: int = 1,
    mlp_ratio: float = 4.0,
    remat: Remat = "none",
    dtype: DType = None,
) -> Net:
    """The predictor of I-JEPA (Assran et al. 2023, arXiv:2301.08243, `vision_transformer.py`) and
    V-JEPA (arXiv:2404.08471, `predictor.py`).

    `apply(params, stats, tokens, places, targets, visible, train=..., kind=0)`: a linear layer to
    `dim`, a mask token for each target, fixed sin-cos positions, transformer blocks, norm, and a
    linear layer back to the encoder's width. Shapes: `TokenPredictor.__call__`.

    Args:
      encoder_dim: width of the tokens.
      dim, depth, heads, mlp_ratio: sizes of the predictor's transformer.
      grid: rows and columns of patches; of a clip, frames before them.
      mask_tokens: number of mask tokens, one for each kind of mask.
      remat, dtype: as for `vit`.

    Raises:
      UserError: heads that do not divide `dim`, a `dim` that 4 does not divide, an unknown remat
        policy.
    """
    check_options(dim, heads, remat)
    fixed_table(dim, grid)  # raises for an invalid width
    compute_dtype(dtype)

    def make(rngs: nnx.Rngs) -> TokenPredictor:
        return TokenPredictor(
            encoder_dim,
            dim=dim,
            depth=depth,
            heads=heads,
            grid=grid,
            mask_tokens=mask_tokens,
            mlp_ratio=mlp_ratio,
            remat=remat,
            dtype=compute_dtype(dtype),
            rngs=rngs,
        )

    return functional(make, f"token_predictor_{dim}x{depth}")
