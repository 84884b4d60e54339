"""Extrapolation of a feature map by two linear differential equations of first order."""

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.tree import Array
from ssl_jax.nets.functional import Net, functional

TERMS, SQUARINGS = 12, 4  # of the exponential


class LinearExtrapolator(nnx.Module):
    """See `linear_extrapolator`."""

    def __init__(self, dim: int):
        self.across, self.down = (nnx.Param(jnp.zeros((dim, dim), jnp.float32)) for _ in range(2))

    def __call__(self, z: Array, place: Array, *, train: bool) -> Array:
        """Extrapolate one quadrant z (B, h, w, C) of a map to the whole map (B, 2h, 2w, C).

        `place` (B, 2) int is the quadrant's row and column of the 2 x 2 quadrants.
        """
        del train
        return extrapolate(z, place, self.across[...], self.down[...])


def linear_extrapolator(dim: int) -> Net:
    """A map z(x, y) of width `dim` with dz/dx = A z and dz/dy = B z, of which one quadrant is known
    (QB-Heat, arXiv:2211.13228). The matrices are trained; they start at 0, where every quadrant is
    a copy of the known one.

    `apply(params, stats, z, place, train=...)`; shapes: `LinearExtrapolator.__call__`. Parameters:
    "across" is A and "down" is B, both (dim, dim), for a unit of length of one quadrant.
    """
    return functional(lambda rngs: LinearExtrapolator(dim), f"linear_extrapolator_{dim}")


def extrapolate(z: Array, place: Array, across: Array, down: Array) -> Array:
    """Solve dz/dx = A z, dz/dy = B z from one quadrant: (B, h, w, C) to (B, 2h, 2w, C).

    The place at the distance of one quadrant has e^A z or e^-A z, depending on the side. On the
    diagonal, both orders of the two steps are averaged; they agree where A and B commute.

    Args:
      z: the known quadrant.
      place: (B, 2) int, its row and column of the 2 x 2 quadrants.
      across, down: A and B (C, C).
    """
    steps = exponential(jnp.stack([across, -across, down, -down])).astype(z.dtype)
    row, column = (place[:, i, None, None, None] for i in range(2))

    def step(z: Array, ahead: Array, back: Array, at: Array) -> Array:
        """Multiply by the step ahead where `at` is the first quadrant, else by the step back."""
        move = lambda matrix: jnp.einsum("bhwc,dc->bhwd", z, matrix)  # noqa: E731
        return jnp.where(at == 0, move(ahead), move(back))

    beside, below = step(z, steps[0], steps[1], column), step(z, steps[2], steps[3], row)
    diagonal = step(beside, steps[2], steps[3], row) + step(below, steps[0], steps[1], column)
    diagonal = diagonal / 2
    first, second = (_ordered(*pair, column, axis=2) for pair in ((z, beside), (below, diagonal)))
    return _ordered(first, second, row, axis=1)


def exponential(matrices: Array) -> Array:
    """Return e^M of matrices (..., C, C): the series of M / 16, squared four times.

    In float64 the relative error is below 1e-14 for a norm of M up to 6, below 1e-8 up to 16.
    `jax.scipy.linalg.expm` adapts to any norm, but its gradient for four matrices of 64 took 50
    times as long on a CPU; here there are products only.
    """
    eye = jnp.eye(matrices.shape[-1], dtype=matrices.dtype)
    with jax.default_matmul_precision("highest"):
        part = matrices / 2**SQUARINGS
        result = jnp.broadcast_to(eye, matrices.shape)
        for k in range(TERMS, 0, -1):  # Horner's rule
            result = eye + part @ result / k
        for _ in range(SQUARINGS):
            result = result @ result
    return result


def commutator(a: Array, b: Array) -> Array:
    """Return |AB - BA| / |AB| (Frobenius), a scalar: 0 if the order of the steps has no effect."""
    product = a @ b
    return jnp.linalg.norm(product - b @ a) / jnp.maximum(jnp.linalg.norm(product), 1e-12)


def _ordered(known: Array, other: Array, at: Array, axis: int) -> Array:
    """Join two maps (B, h, w, C) along an axis, the known one first where `at` is 0."""
    first, last = (jnp.concatenate(pair, axis) for pair in ((known, other), (other, known)))
    return jnp.where(at == 0, first, last)
