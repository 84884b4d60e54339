"""Layers with explicit numerics: norms in at least float32, initialisers, compute dtypes."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array

DType = jnp.dtype | str | None
Init = Callable[..., Array]


def compute_dtype(dtype: DType) -> jnp.dtype | None:
    """Return the dtype that layers compute in: None, "as the parameters", also for float32.

    Raises:
      UserError: neither float32 nor bfloat16. float16 and float8 need scaled losses, which are not
        implemented, and parameters are never float64.
    """
    if dtype is None:
        return None
    try:
        supported = jnp.dtype(dtype) in (jnp.float32, jnp.bfloat16)
    except (TypeError, ValueError):
        supported = False
    if not supported:
        raise UserError(f"dtype: expected 'float32' or 'bfloat16', got {dtype}")
    return None if jnp.dtype(dtype) == jnp.float32 else jnp.dtype(dtype)


def at_least_float32(x: Array) -> Array:
    """Return `x` in float32 if its dtype is narrower, else unchanged."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015, arXiv:1502.03167).

    Statistics are computed in at least float32; the output has the input's dtype. The batch axis is
    the global batch under `jax.jit`, so statistics are synchronised over devices automatically. The
    running variance is the unbiased one, as in PyTorch: `new = momentum * old + (1 - momentum) *
    batch`.

    Args:
      features: size of the last axis.
      use_scale, use_bias: whether there is a trained scale and a trained bias.
      zero_scale: start the scale at 0 (the last norm of a residual branch) instead of 1.
    """

    def __init__(
        self,
        features: int,
        *,
        use_scale: bool = True,
        use_bias: bool = True,
        zero_scale: bool = False,
        momentum: float = 0.9,
        eps: float = 1e-5,
    ):
        self.momentum, self.eps = momentum, eps
        fill = jnp.zeros if zero_scale else jnp.ones
        self.scale = nnx.Param(fill((features,), jnp.float32)) if use_scale else None
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32)) if use_bias else None
        self.mean = nnx.BatchStat(jnp.zeros((features,), jnp.float32))
        self.var = nnx.BatchStat(jnp.ones((features,), jnp.float32))

    def __call__(self, x: Array, *, train: bool) -> Array:
        wide = at_least_float32(x)
        mean, var = self.mean[...], self.var[...]
        if train:
            # One pass, hence one reduction over the devices. Moments are taken about the running
            # mean, a constant near the true one: E[x^2] - E[x]^2 about zero loses digits where the
            # mean is large.
            center = jax.lax.stop_gradient(mean).astype(wide.dtype)
            axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
            shift = jnp.mean(wide - center, axes)
            square = jnp.mean(jnp.square(wide - center), axes)
            mean, var = center + shift, jnp.maximum(square - jnp.square(shift), 0)
            self._update(self.mean, mean)
            self._update(self.var, var * (count / max(count - 1, 1)))
        factor = jax.lax.rsqrt(var + self.eps)
        if self.scale is not None:
            factor = factor * self.scale[...]
        wide = (wide - mean) * factor
        if self.bias is not None:
            wide = wide + self.bias[...]
        return wide.astype(x.dtype)

    def _update(self, running: nnx.BatchStat, batch: Array) -> None:
        old = running[...]
        batch = jax.lax.stop_gradient(batch)
        updated = (self.momentum * old + (1 - self.momentum) * batch).astype(old.dtype)
        # Not `running[...] = new`: that queries a tracer's sharding, in time quadratic in the size
        # of the network.
        running.set_value(updated)


class LayerNorm(nnx.Module):
    """Layer norm over the last axis (Ba et al. 2016, arXiv:1607.06450), precise as `BatchNorm`."""

    def __init__(self, features: int, *, eps: float = 1e-6):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        wide = at_least_float32(x)
        wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), -1, keepdims=True) + self.eps)
        return (wide * self.scale[...] + self.bias[...]).astype(x.dtype)


def normal(std: float) -> Init:
    """Return the initialiser N(0, std)."""
    return _as_matrix(lambda key, shape, dtype: std * jax.random.normal(key, shape, dtype))


def uniform(bound: float) -> Init:
    """Return the initialiser U(-bound, bound)."""
    return _as_matrix(
        lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)
    )


def _as_matrix(draw: Init) -> Init:
    """Draw kernels as matrices (all other axes, last axis): XLA compiles that 5 times as fast."""

    def init(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jnp.reshape(draw(key, (math.prod(shape[:-1]), shape[-1]), dtype), shape)

    return init


def torch_default(fan_in: int) -> Init:
    """Return PyTorch's default for weights and biases, U(-b, b) with b = 1 / sqrt(fan_in)."""
    return uniform(fan_in**-0.5)


def xavier_uniform(fan_in: int, fan_out: int) -> Init:
    """Return Glorot's uniform initialiser with these fans, whatever the kernel's shape."""
    return uniform(math.sqrt(6 / (fan_in + fan_out)))


def delta_orthogonal(gain: float) -> Init:
    """Return the initialiser of a kernel (h, w, I, O) that is `gain` times an orthogonal matrix at
    its centre and 0 elsewhere (Xiao et al. 2018, arXiv:1806.05393); of more inputs than outputs the
    columns are orthogonal.
    """

    def init(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        center = jax.nn.initializers.orthogonal(gain)(key, shape[2:], dtype)
        return jnp.zeros(shape, dtype).at[shape[0] // 2, shape[1] // 2].set(center)

    return init


def conv(
    features_in: int, features: int, kernel: int, stride: int, *, dtype: DType, rngs: nnx.Rngs
) -> nnx.Conv:
    """Create a convolution without bias, padded by `kernel // 2` (PyTorch); He init, fan out."""
    return nnx.Conv(
        features_in,
        features,
        (kernel, kernel),
        strides=stride,
        padding=kernel // 2,
        use_bias=False,
        kernel_init=normal(math.sqrt(2 / (kernel * kernel * features))),
        dtype=dtype,
        rngs=rngs,
    )
