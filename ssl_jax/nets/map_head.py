"""A head that reads every place of a map, as agents need: where things are matters to them."""

from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import LayerNorm, at_least_float32


class MapHead(nnx.Module):
    """See `map_head`."""

    def __init__(self, size: int, dim: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.orthogonal()
        self.linear = nnx.Linear(size, dim, kernel_init=init, rngs=rngs)
        self.norm = LayerNorm(dim, eps=1e-5)

    def __call__(self, x: Array, *, train: bool) -> Array:
        del train
        return self.norm(self.linear(at_least_float32(x).reshape(len(x), -1)))


def map_head(shape: tuple[int, ...], dim: int) -> Net:
    """A linear layer on all values of a map and layer norm: (B, *shape) -> (B, dim) float32, the
    rest of the encoder of MishaLaskin/curl (encoder.py, without its last tanh).

    Raises:
      UserError: an empty map.
    """
    size = 1
    for side in shape:
        size *= side
    if size < 1:
        raise UserError(f"the backbone's map has the shape {shape}; use larger views")
    return functional(lambda rngs: MapHead(size, dim, rngs=rngs), f"map_head_{dim}")
