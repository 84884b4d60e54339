"""SIGReg: sketched isotropic Gaussian regularization (LeJEPA, 2511.08544, section 4).

Embeddings are Gaussian with covariance I if their projection on every direction is a standard
normal variable. A test of that for random directions, new ones per step, is the loss.
"""

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float, l2_normalize
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array


@any_axes()
def sigreg(
    z: Array, key: Array, directions: int = 1024, *, points: int = 17, limit: float = 3.0
) -> Array:
    """Distance of embeddings from a standard normal distribution, a scalar with gradient to `z`.

        mean(epps_pulley(z[:, v] @ a) for v in range(V) for a in random unit vectors)

    Standard normal rows give 1.05 on average for any B; rows of zeros give 0.40 B. Time and memory
    are linear in B, d and the number of directions.

    Args:
      z: (B, ..., d); every index between the first and the last axis, such as a view, is tested
        by itself over the B examples.
      key: random key of the directions; those of all devices are equal.
      directions: number of random directions.
      points, limit: see `epps_pulley`; the numbers above are those of the defaults.
    """
    check_shapes("sigreg: z (B, ..., d)", z)
    x = jnp.matmul(as_float(z), _directions(key, z.shape[-1], directions), precision="highest")
    return jnp.mean(epps_pulley(x, points=points, limit=limit))


def _directions(key: Array, width: int, count: int) -> Array:
    """Draw unit vectors (width, count), uniform on the sphere."""
    return l2_normalize(jax.random.normal(key, (width, count)), axis=0)


@any_axes()
def epps_pulley(x: Array, *, points: int = 17, limit: float = 3.0) -> Array:
    """Epps and Pulley's statistic (1983): are samples standard normal? (B, ...) -> (...).

        B * integral of |mean(exp(i t x)) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

    from -limit to limit: twice the trapezoid rule from 0 to `limit`, as the integrand is even. The
    samples are not standardised.

    Args:
      x: (B, ...), real; B samples of each variable.
      points: number of points of the trapezoid rule, at least 2.
      limit: largest t.

    Raises:
      ValueError: too few points.
    """
    check_shapes("epps_pulley: x (B, ...)", x)
    if points < 2:
        raise ValueError(f"epps_pulley: expected at least 2 points, got {points}")
    x = as_float(x)
    t = jnp.linspace(0.0, limit, points, dtype=x.dtype)
    normal = jnp.exp(-0.5 * jnp.square(t))
    weights = 2 * limit / (points - 1) * normal
    weights = weights.at[jnp.array([0, points - 1])].divide(2)

    @jax.checkpoint  # so that no array is larger than x, also in the backward pass
    def characteristic(t: Array) -> tuple[Array, Array]:
        """Compute the real and imaginary part of mean(exp(i t x)), (...)."""
        return jnp.mean(jnp.cos(t * x), axis=0), jnp.mean(jnp.sin(t * x), axis=0)

    real, imaginary = jax.lax.map(characteristic, t)  # (points, ...)
    normal, weights = (v.reshape(-1, *[1] * (x.ndim - 1)) for v in (normal, weights))
    errors = jnp.square(real - normal) + jnp.square(imaginary)
    return x.shape[0] * jnp.sum(weights * errors, axis=0)
