"""Triplet losses: of given triplets, and with negatives chosen within the batch (batch-hard and
semi-hard).
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


def _squared_distances(z: Array) -> Array:
    """Compute the squared Euclidean distances (n, n) of the rows of z (n, d)."""
    return jnp.sum(jnp.square(z[:, None] - z[None]), axis=-1)


@any_axes(...)
def cosine_triplet(anchor: Array, positive: Array, negative: Array, margin: float = 0.5) -> Array:
    """Hinge of triplets `max(0, D(a, p) - D(a, n) + m)` with the cosine distance `D = 1 - cos`
    (Doersch and Zisserman 2017, 1708.07860).

    Args:
      anchor, positive, negative: (..., d), of any length.
      margin: m.

    Returns:
      (...), one value per triplet, in at least float32.
    """
    check_shapes("cosine_triplet: anchor, positive, negative (..., d)", anchor, positive, negative)
    a, p, n = (l2_normalize(as_float(z)) for z in (anchor, positive, negative))
    return jax.nn.relu(margin + jnp.sum(a * n, axis=-1) - jnp.sum(a * p, axis=-1))


@any_axes(1)
def batch_hard(
    z: Array, labels: Array, margin: float | None = None, *, squared: bool = False
) -> Array:
    """For each row, its distance to the farthest row with its label less that to the nearest with
    another label (1703.07737, equation 5).

    Args:
      z: (n, d).
      labels: (n,) int; every label at least twice, and at least two labels.
      margin: m of the hinge max(0, m + difference); None for the soft margin,
        log(1 + exp(difference)).
      squared: use squared Euclidean distances.

    Returns:
      (n,), one value per row, in at least float32.

    Raises:
      ValueError: not a matrix, or not one label per row.
    """
    check_shapes("batch_hard: z (n, d), labels (n) int", z, labels)
    same = _same(labels)
    distance = _squared_distances(as_float(z))
    if not squared:
        distance = jnp.sqrt(jnp.maximum(distance, 1e-12))
    farthest = jnp.max(jnp.where(same & ~_self(same), distance, -jnp.inf), axis=1)
    nearest = jnp.min(jnp.where(same, jnp.inf, distance), axis=1)
    difference = farthest - nearest
    return jax.nn.softplus(difference) if margin is None else jax.nn.relu(margin + difference)


@any_axes()
def semi_hard(z: Array, labels: Array, margin: float = 0.5) -> Array:
    """Hinge of every pair with one label against one negative of its first row; a scalar.

    `max(0, m + d(a, p) - d(a, n))` with squared distances, averaged over the ordered pairs (a, p).
    The negative n is the nearest of those farther away than p, or the farthest if none is
    (1503.03832, as in TensorFlow's contrib.losses `triplet_semihard_loss`).

    Args:
      z: (n, d).
      labels: (n,) int; every label at least twice, and at least two labels.
      margin: m.

    Raises:
      ValueError: not a matrix, or not one label per row.
    """
    check_shapes("semi_hard: z (n, d), labels (n) int", z, labels)
    same = _same(labels)
    distance = _squared_distances(as_float(z))
    negatives = jnp.where(same, jnp.inf, distance)
    farther = negatives[:, None, :] > distance[:, :, None]  # (a, p, n)
    nearest = jnp.min(jnp.where(farther, negatives[:, None, :], jnp.inf), axis=2)
    farthest = jnp.max(jnp.where(same, -jnp.inf, distance), axis=1, keepdims=True)
    negative = jnp.where(jnp.isfinite(nearest), nearest, farthest)
    pairs = same & ~_self(same)
    loss = jax.nn.relu(margin + distance - jnp.where(pairs, negative, 0.0))
    return jnp.sum(jnp.where(pairs, loss, 0.0)) / jnp.maximum(jnp.sum(pairs), 1)


def _same(labels: Array) -> Array:
    """Return whether two rows have one label, (n, n)."""
    return labels[:, None] == labels[None]


def _self(same: Array) -> Array:
    return jnp.eye(same.shape[0], dtype=bool)
