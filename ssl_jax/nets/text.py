"""A causal transformer for text: the text tower of CLIP."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.blocks import Remat, check_options, run_stack, stack
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import DType, LayerNorm, at_least_float32, compute_dtype, normal


class TextTransformer(nnx.Module):
    """See `text_transformer`."""

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        dim: int,
        depth: int,
        heads: int,
        remat: Remat,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        self.remat, self.dtype = remat, dtype
        self.embedding = nnx.Param(normal(0.02)(rngs.params(), (vocabulary, dim)))
        self.positions = nnx.Param(normal(0.01)(rngs.params(), (length, dim)))
        options: dict[str, Any] = dict(scheme="normal", dtype=dtype, rngs=rngs)
        self.blocks = stack(depth, dim, heads, **options)
        self.norm = LayerNorm(dim)
        # `stack` draws all kernels with deviation 0.02; CLIP's depend on width and depth.
        residual = (2 * depth * dim) ** -0.5
        attention, mlp = self.blocks.attn, self.blocks.mlp
        for layer, std in (
            (attention.qkv, dim**-0.5),
            (attention.proj, residual),
            (mlp.fc1, (2 * dim) ** -0.5),
            (mlp.fc2, residual),
        ):
            layer.kernel.set_value(layer.kernel[...] * (std / 0.02))

    def __call__(self, tokens: Array, *, train: bool) -> Features:
        """Encode token ids (B, L) to tokens (B, L, D), normed, and `pooled` (B, D).

        `pooled` is the feature at the highest id, which is the end of the text. L may be less than
        the network's length.

        Raises:
          UserError: texts longer than the network's length.
        """
        del train
        length = tokens.shape[1]
        if length > len(self.positions):
            raise UserError(f"text: expected at most {len(self.positions)} tokens, got {length}")
        x = self.embedding[...][tokens] + self.positions[:length]
        x = x if self.dtype is None else x.astype(self.dtype)
        future = jnp.triu(jnp.full((length, length), -jnp.inf, jnp.float32), 1)
        x, _ = run_stack(self.blocks, x, self.remat, bias=future[None, None])
        x = self.norm(x)
        end = jnp.argmax(tokens, axis=1)[:, None, None]
        pooled = at_least_float32(jnp.take_along_axis(x, end, 1)[:, 0])
        return Features(pooled=pooled, tokens=x)


def text_transformer(
    vocabulary: int,
    length: int = 77,
    dim: int = 512,
    depth: int = 12,
    heads: int = 8,
    *,
    remat: Remat = "none",
    dtype: DType = None,
) -> Net:
    """The text transformer of CLIP (Radford et al. 2021, arXiv:2103.00020; openai/CLIP, model.py).

    `apply(params, stats, tokens, train=...)`; outputs: `TextTransformer.__call__`. Pre-norm blocks
    with a causal mask and CLIP's initialisation; the exact GELU (open_clip) in place of OpenAI's
    x sigmoid(1.702 x).

    Args:
      vocabulary: number of token ids.
      length: tokens of the longest text.
      dim, depth, heads: sizes of the transformer.
      remat, dtype: as for `vit`.

    Raises:
      UserError: an argument below 1, heads that do not divide `dim`, an unknown remat policy.
    """
    if min(vocabulary, length, dim, depth) < 1:
        raise UserError(
            f"vocabulary={vocabulary}, length={length}, dim={dim}, depth={depth}: expected "
            "positive numbers"
        )
    check_options(dim, heads, remat)
    compute_dtype(dtype)

    def make(rngs: nnx.Rngs) -> TextTransformer:
        return TextTransformer(
            vocabulary=vocabulary,
            length=length,
            dim=dim,
            depth=depth,
            heads=heads,
            remat=remat,
            dtype=compute_dtype(dtype),
            rngs=rngs,
        )

    return functional(make, f"text_{dim}x{depth}")
