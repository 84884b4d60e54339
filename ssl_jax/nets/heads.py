"""Heads: projectors, predictors, linear classifiers, and the prototype head of DINO."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.tree import Array
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.functional import Net, functional
from ssl_jax.nets.layers import (
    BatchNorm,
    DType,
    at_least_float32,
    compute_dtype,
    normal,
    torch_default,
)

LastNorm = Literal["affine", "no_affine", "no_bias"]
HeadInit = Literal[
    "lecun", "normal0.01", "normal0.02", "normal2e-5", "orthogonal", "torch", "zeros"
]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "leaky_relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
}
INITS = get_args(HeadInit)


class MlpHead(nnx.Module):
    """See `mlp_head`."""

    def __init__(
        self,
        dims: Sequence[int],
        *,
        norm: Literal["batch"] | None,
        last_norm: LastNorm | None,
        hidden_bias: bool,
        last_bias: bool,
        init: HeadInit,
        activation: str,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        self.activation = ACTIVATIONS[activation]
        self.count = len(dims) - 1
        for i in range(1, self.count + 1):
            last = i == self.count
            kernel_init, bias_init = _initializers(init, dims[i - 1])
            layer = nnx.Linear(
                dims[i - 1],
                dims[i],
                use_bias=last_bias if last else hidden_bias,
                kernel_init=kernel_init,
                bias_init=bias_init,
                dtype=dtype,
                rngs=rngs,
            )
            setattr(self, f"linear{i}", layer)
            kind = last_norm if last else norm and "affine"
            scale, bias = kind != "no_affine", kind == "affine"
            setattr(
                self,
                f"norm{i}",
                BatchNorm(dims[i], use_scale=scale, use_bias=bias) if kind else None,
            )

    def __call__(self, x: Array, *, train: bool) -> Array:
        for i in range(1, self.count + 1):
            x = getattr(self, f"linear{i}")(x)
            norm = getattr(self, f"norm{i}")
            if norm is not None:
                x = norm(x, train=train)
            if i < self.count:
                x = self.activation(x)
        return at_least_float32(x)


def mlp_head(
    in_dim: int,
    dims: Sequence[int],
    *,
    norm: Literal["batch"] | None = "batch",
    last_norm: LastNorm | None = None,
    hidden_bias: bool | None = None,
    last_bias: bool | None = None,
    init: HeadInit = "lecun",
    activation: Literal["relu", "gelu", "leaky_relu", "tanh"] = "relu",
    dtype: DType = None,
) -> Net:
    """A multi-layer perceptron on vectors (..., in_dim) -> (..., dims[-1]) float32.

    Every hidden layer is linear, norm, activation; the last one is linear and `last_norm`.
    Published heads:
      SimCLR       (2048, 128), last_norm "no_bias", init "normal0.01"
      BYOL         (4096, 256), hidden_bias True, last_bias False, for both
      SimSiam      projector (2048, 2048, 2048), last_norm "no_affine"; predictor (512, 2048)
      MoCo v3      (4096, 4096, 256), then (4096, 256), both last_norm "no_affine"
      Barlow Twins (8192, 8192, 8192), last_bias False
      MoCo v2      (2048, 128), norm None, init "torch"
      a linear classifier: dims (classes,)

    Args:
      in_dim: width of the input; `functional.output_shapes` returns that of a backbone.
      dims: widths of the layers, the last one that of the output.
      norm: batch norm over all vectors after the hidden layers, or None.
      last_norm: batch norm after the last layer: None, "affine", "no_affine" (neither scale nor
        bias), "no_bias".
      hidden_bias: biases of the hidden linear layers; None: only where no norm follows.
      last_bias: bias of the last linear layer; None: only where no norm follows.
      init: "lecun" (normal, bias 0), "normal0.01", "normal0.02" or "normal2e-5" (bias 0),
        "orthogonal" (bias 0), "torch" (its uniform default), "zeros".
      activation: activation between layers.
      dtype: dtype of the computation; None follows the parameters, which are float32.

    Raises:
      UserError: no layer, a width below 1, or an unknown option.
    """
    widths = (in_dim, *dims)
    if not dims or min(widths) < 1:
        raise UserError(
            f"head: invalid widths {widths}; give an input width and at least one layer, all "
            "positive"
        )
    for what, value, known in (
        ("norm", norm, ("batch", None)),
        ("last_norm", last_norm, ("affine", "no_affine", "no_bias", None)),
        ("init", init, INITS),
        ("activation", activation, tuple(ACTIVATIONS)),
    ):
        if value not in known:
            raise UserError(f"unknown {what} {value!r}; {suggest(str(value), map(str, known))}")
    compute_dtype(dtype)

    def make(rngs: nnx.Rngs) -> MlpHead:
        return MlpHead(
            widths,
            norm=norm,
            last_norm=last_norm,
            hidden_bias=norm is None if hidden_bias is None else hidden_bias,
            last_bias=last_norm is None if last_bias is None else last_bias,
            init=init,
            activation=activation,
            dtype=compute_dtype(dtype),
            rngs=rngs,
        )

    return functional(make, "mlp_" + "_".join(map(str, widths)))


class DINOHead(nnx.Module):
    """See `dino_head`."""

    def __init__(
        self,
        dims: Sequence[int],
        out_dim: int,
        *,
        norm: Literal["batch"] | None,
        norm_last_layer: bool,
        dtype: DType,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.mlp = MlpHead(
            dims,
            norm=norm,
            last_norm=None,
            hidden_bias=norm is None,
            last_bias=True,
            init="normal0.02",
            activation="gelu",
            dtype=dtype,
            rngs=rngs,
        )
        self.last_layer = Prototypes(
            dims[-1], out_dim, trained_norm=not norm_last_layer, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Array, *, train: bool) -> Array:
        return self.last_layer(l2_normalize(self.mlp(x, train=train), floor="norm"), train=train)


class Prototypes(nnx.Module):
    """See `prototype_head`."""

    def __init__(self, dim: int, count: int, *, trained_norm: bool, dtype: DType, rngs: nnx.Rngs):
        self.dtype = dtype
        self.v = nnx.Param(torch_default(dim)(rngs.params(), (dim, count)))
        self.g = nnx.Param(jnp.ones((count,), jnp.float32)) if trained_norm else None

    def __call__(self, x: Array, *, train: bool) -> Array:
        del train
        weights = self.v[...]
        weights = weights * jax.lax.rsqrt(jnp.sum(jnp.square(weights), 0))
        if self.g is not None:
            weights = weights * self.g[...]
        dtype = jnp.promote_types(x.dtype, weights.dtype) if self.dtype is None else self.dtype
        x, weights = x.astype(dtype), weights.astype(dtype)
        return jnp.matmul(
            x, weights, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32)
        )


def dino_head(
    in_dim: int,
    out_dim: int = 65536,
    *,
    hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    layers: int = 3,
    norm: Literal["batch"] | None = None,
    norm_last_layer: bool = True,
    dtype: DType = None,
) -> Net:
    """The head of DINO (Caron et al. 2021, arXiv:2104.14294) on vectors (..., in_dim).

    A GELU perceptron to the bottleneck, L2 normalisation, and a weight-normalised linear layer
    without bias to (..., out_dim) float32 logits. The last layer's parameters are under
    "last_layer".

    Args:
      in_dim: width of the input.
      out_dim: number of prototypes.
      hidden_dim, bottleneck_dim, layers: sizes of the perceptron; `layers` includes the bottleneck.
      norm: batch norm after the perceptron's hidden layers, or None (`--use_bn_in_head`).
      norm_last_layer: fix the norm of each prototype at 1, which is then not a parameter; False
        trains it.
      dtype: dtype of the computation; None follows the parameters, which are float32.

    Raises:
      UserError: a width or a number of layers below 1, or another norm.
    """
    dims = (in_dim, *[hidden_dim] * (layers - 1), bottleneck_dim)
    if layers < 1 or min(*dims, out_dim) < 1:
        raise UserError(
            f"DINO head: invalid widths {(*dims, out_dim)}; give at least one layer, all positive"
        )
    if norm not in ("batch", None):
        raise UserError(f"unknown norm {norm!r}; {suggest(str(norm), ('batch', 'None'))}")
    compute_dtype(dtype)

    def make(rngs: nnx.Rngs) -> DINOHead:
        return DINOHead(
            dims,
            out_dim,
            norm=norm,
            norm_last_layer=norm_last_layer,
            dtype=compute_dtype(dtype),
            rngs=rngs,
        )

    return functional(make, f"dino_head_{out_dim}")


def prototype_head(dim: int, count: int, *, trained_norm: bool = True, dtype: DType = None) -> Net:
    """A weight-normalised linear layer without bias (arXiv:1602.07868): (..., dim) to
    (..., count).

    Its parameters are directions "v" (dim, count) and, with `trained_norm`, norms "g" (count,) that
    start at 1; else the norms are 1. `dtype` is that of the computation; the output is float32.

    Raises:
      UserError: a width below 1.
    """
    if min(dim, count) < 1:
        raise UserError(f"prototypes: expected positive numbers, got {count} of width {dim}")
    compute_dtype(dtype)

    def make(rngs: nnx.Rngs) -> Prototypes:
        kind = compute_dtype(dtype)
        return Prototypes(dim, count, trained_norm=trained_norm, dtype=kind, rngs=rngs)

    return functional(make, f"prototypes_{count}")


def _initializers(init: HeadInit, fan_in: int) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Return the initialisers of a linear layer's kernel and bias."""
    zeros = nnx.initializers.zeros
    if init == "torch":
        return torch_default(fan_in), torch_default(fan_in)
    if init == "zeros":
        return zeros, zeros
    if init == "orthogonal":
        return nnx.initializers.orthogonal(), zeros
    if init == "lecun":
        return nnx.initializers.lecun_normal(), zeros
    return normal(float(init.removeprefix("normal"))), zeros
