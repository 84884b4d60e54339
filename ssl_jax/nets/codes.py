"""Heads of tokenizers: a score for every code of a vocabulary at every place of a map."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.layers import at_least_float32, normal


class NearestCode(nnx.Module):
    """See `code_head`."""

    def __init__(self, dim: int, vocabulary: int, code_dim: int, rngs: nnx.Rngs):
        options: dict[str, Any] = {"kernel_init": normal(0.02), "rngs": rngs}
        self.linear1 = nnx.Linear(dim, dim, **options)
        self.linear2 = nnx.Linear(dim, code_dim, **options)
        codes = normal(1.0)(rngs.params(), (vocabulary, code_dim))
        self.codebook = nnx.Param(l2_normalize(codes, floor="norm"))

    def __call__(self, x: Array, *, train: bool, project: bool = False) -> Array:
        """Return the cosines (..., vocabulary) float32 of places (..., dim) with all codes; with
        `project` the places in the space of the codes, (..., code_dim) of unit length.
        """
        del train
        x = self.linear2(jnp.tanh(self.linear1(at_least_float32(x))))
        x = l2_normalize(x, floor="norm")
        if project:
            return x
        return jnp.matmul(x, self.codebook[...].T, precision=jax.lax.Precision.HIGHEST)


def code_head(dim: int, vocabulary: int, code_dim: int = 0) -> Net:
    """The head of a tokenizer; the code of a place is the index of its largest score.

    `apply(params, {}, map, train=...)`: (B, h, w, dim) to (B, h, w, vocabulary) float32.

    Args:
      dim: width of the map.
      vocabulary: number of codes.
      code_dim: 0 for the logits of a linear layer (DALL-E's dVAE, BEiT). Otherwise a perceptron
        with one hidden tanh layer maps to unit vectors of this width, and the scores are their
        cosines with the rows of a codebook, parameter "codebook" (vocabulary, code_dim) of unit
        rows: the largest belongs to the nearest row (VQ-KD, Peng et al. 2022, arXiv:2208.06366).

    Raises:
      UserError: an invalid width.
    """
    if not code_dim:
        return mlp_head(dim, (vocabulary,))
    if min(dim, vocabulary, code_dim) < 1:
        raise UserError(f"code_head: invalid sizes {(dim, vocabulary, code_dim)}; all are positive")
    return functional(lambda rngs: NearestCode(dim, vocabulary, code_dim, rngs), "nearest_code")
