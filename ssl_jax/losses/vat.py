"""Virtual adversarial training: small changes of an input that change a prediction (1704.03976)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ssl_jax.losses.axes import any_axes
from ssl_jax.losses.normalize import as_float
from ssl_jax.losses.shapes import check_shapes

Array = jax.Array
Function = Callable[[Array], Array]


@any_axes()
def entropy(logits: Array) -> Array:
    """Return the mean entropy of softmax(logits), logits (n, K); a scalar."""
    check_shapes("entropy: logits (n, K)", logits)
    log_p = jax.nn.log_softmax(as_float(logits), axis=-1)
    return -jnp.mean(jnp.sum(jnp.exp(log_p) * log_p, axis=-1))


@any_axes()
def divergence(logits: Array, reference: Array) -> Array:
    """Return the mean of KL(softmax(logits) || softmax(reference)), both (n, K); a scalar."""
    check_shapes("divergence: logits, reference (n, K)", logits, reference)
    log_p, log_q = (jax.nn.log_softmax(as_float(x), axis=-1) for x in (logits, reference))
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))


def virtual_adversarial(
    function: Function,
    images: Array,
    logits: Array,
    noise: Array,
    epsilon: float,
    xi: float | None = None,
) -> Array:
    """Return the divergence that a change of length `epsilon` causes; a scalar.

    The gradient flows through the prediction for the changed images alone. The arguments are those
    of `adversarial_direction`.
    """
    change = epsilon * adversarial_direction(function, images, logits, noise, xi)
    return divergence(function(images + change), jax.lax.stop_gradient(logits))


def adversarial_direction(
    function: Function, images: Array, logits: Array, noise: Array, xi: float | None = None
) -> Array:
    """Find the direction in which each image changes its prediction most, by one power iteration.

    Args:
      function: images (n, H, W, C) -> logits (n, K).
      images: (n, H, W, C).
      logits: (n, K), those of the images.
      noise: (n, H, W, C), start of the iteration.
      xi: None multiplies by the exact Hessian of the divergence at the image and returns vectors of
        unit length. A number is the step of a finite difference as in the code of S4L (google-
        research/s4l, vat_utils.py), which also floors the squared norm at 1e-12: with its 1e-6,
        vectors are shorter than 1, and in float32 they are mostly rounding noise.

    Returns:
      (n, H, W, C), without a gradient.
    """
    check_shapes(
        "adversarial_direction: images, noise (n, H, W, C), logits (n, K)", images, noise, logits
    )
    logits = jax.lax.stop_gradient(logits)
    slope = jax.grad(lambda r: divergence(function(images + r), logits))
    if xi is None:
        product = jax.jvp(slope, (jnp.zeros_like(images),), (unit(noise),))[1]
        return jax.lax.stop_gradient(unit(product))
    return jax.lax.stop_gradient(unit(slope(xi * unit(noise, 1e-12)), 1e-12))


def unit(x: Array, floor: float | None = None) -> Array:
    """Divide each of (n, ...) by its length; `floor` bounds the squared length. Without it, any
    vector but 0 gets unit length.
    """
    check_shapes("unit: x (n, ...)", x)
    axes = tuple(range(1, x.ndim))
    if floor is not None:
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axes, keepdims=True), floor))
    largest = jnp.max(jnp.abs(x), axes, keepdims=True)  # squares of small numbers would be 0
    x = x / jnp.where(largest > 0, largest, 1.0)
    square = jnp.sum(jnp.square(x), axes, keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))
