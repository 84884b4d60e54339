"""Networks over a grid of vectors in which a row depends on itself and the rows above only.

Masked convolutions (PixelCNN) without masks: a kernel covers rows above only, and zeros are
padded on top only.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.tree import Array
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import at_least_float32

ABOVE = ((1, 0), (0, 0))  # zeros for a kernel of two rows: the row above and the row itself


class RowBlock(nnx.Module):
    """A residual block: 1x1, ReLU, 1x3 (its own row), 2x1 (the row above), ReLU, 1x1."""

    def __init__(self, dim: int, width: int, rngs: nnx.Rngs):
        self.reduce = nnx.Linear(dim, width, rngs=rngs)
        self.across = nnx.Conv(width, width, (1, 3), rngs=rngs)
        self.down = nnx.Conv(width, width, (2, 1), padding=ABOVE, rngs=rngs)
        self.expand = nnx.Linear(width, dim, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.expand(jax.nn.relu(self.mix(jax.nn.relu(self.reduce(x)))))

    def mix(self, x: Array) -> Array:
        """Mix the positions of (B, h, w, width)."""
        return self.down(self.across(x))


class RowBlocks(nnx.Module):
    """See `row_blocks`."""

    def __init__(self, dim: int, width: int, count: int, rngs: nnx.Rngs):
        self.blocks = nnx.List([RowBlock(dim, width, rngs) for _ in range(count)])

    def __call__(self, grid: Array, *, train: bool) -> Array:
        del train
        for block in self.blocks:
            grid = block(grid)
        return at_least_float32(jax.nn.relu(grid))


def row_blocks(dim: int, width: int, count: int) -> Net:
    """Residual blocks and a ReLU on (B, h, w, dim): the context network of CPC v2
    (arXiv:1905.09272, appendix). Each block sees one row further up.
    """
    return functional(lambda rngs: RowBlocks(dim, width, count, rngs), f"row_blocks_{count}")


class GatedLayer(nnx.Module):
    """A layer of two streams, each gated: the vertical one sees rows above and itself, the
    horizontal one its own row and the vertical one.

    Args:
      first: the horizontal stream has no shortcut, and neither stream has one in the first layer.
      last: nothing reads the vertical stream, so it has no shortcut.
    """

    def __init__(self, dim: int, first: bool, last: bool, rngs: nnx.Rngs):
        self.first = first
        padding = ((1, 0), (1, 1))
        self.vertical = nnx.Conv(dim, 2 * dim, (2, 3), padding=padding, rngs=rngs)
        self.vertical_to_horizontal = nnx.Linear(2 * dim, 2 * dim, rngs=rngs)
        self.horizontal = nnx.Conv(dim, 2 * dim, (1, 3), rngs=rngs)
        self.shortcut = None if first or last else nnx.Linear(dim, 2 * dim, rngs=rngs)
        self.out = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, vertical: Array, horizontal: Array) -> tuple[Array, Array]:
        above = self.vertical(vertical)
        row = self.horizontal(horizontal) + self.vertical_to_horizontal(above)
        if self.shortcut is not None:
            above = above + self.shortcut(vertical)
        row = self.out(_gate(row))
        return _gate(above), row if self.first else horizontal + row


class GatedRows(nnx.Module):
    """See `gated_rows`."""

    def __init__(self, dim: int, count: int, rngs: nnx.Rngs):
        layers = [GatedLayer(dim, i == 0, i == count - 1, rngs) for i in range(count)]
        self.layers = nnx.List(layers)
        self.out = nnx.Linear(dim, dim, rngs=rngs)

    def __call__(self, grid: Array, *, train: bool) -> Array:
        del train
        vertical = horizontal = grid
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal)
        return at_least_float32(self.out(horizontal))


def gated_rows(dim: int, count: int) -> Net:
    """A gated PixelCNN on (B, h, w, dim) (van den Oord et al. 2016, arXiv:1606.05328) that sees
    its own row completely, as in loeweX/Greedy_InfoMax, PixelCNN.py with mask mode "only_vert".
    """
    return functional(lambda rngs: GatedRows(dim, count, rngs), f"gated_rows_{count}")


def _gate(x: Array) -> Array:
    value, gate = jnp.split(x, 2, axis=-1)
    return jnp.tanh(value) * jax.nn.sigmoid(gate)
