"""The policy of soft actor-critic: a Gaussian squashed by tanh (1801.01290, appendix C)."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array

LOG_STD = (-10.0, 2.0)  # range of the logarithm of the deviation, as released by CURL
EPS = 1e-6


def split(out: Array) -> tuple[Array, Array]:
    """Split a network's output (B, 2 A) into the mean (B, A) before tanh and the logarithm of the
    deviation, which tanh maps to the range `LOG_STD`.
    """
    mean, raw = jnp.split(out, 2, axis=-1)
    low, high = LOG_STD
    return mean, low + 0.5 * (high - low) * (jnp.tanh(raw) + 1)


def choose(out: Array, key: Array | None) -> Array:
    """Return the mean actions (B, A) of a policy's output (B, 2 A); with a key draw them."""
    mean, _ = split(out)
    if key is None:
        return jnp.tanh(mean)
    return sample(out, jax.random.normal(key, mean.shape))[0]


def sample(out: Array, noise: Array) -> tuple[Array, Array]:
    """Return the actions (B, A) that standard normal `noise` (B, A) selects, and the logarithm of
    their density (B,).
    """
    mean, log_std = split(out)
    action = jnp.tanh(mean + noise * jnp.exp(log_std))
    log_density = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
    squash = jnp.log(jax.nn.relu(1 - action**2) + EPS)
    return action, jnp.sum(log_density - squash, axis=-1)
