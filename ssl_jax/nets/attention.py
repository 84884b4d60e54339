"""Self-attention by the fastest form that the device and the shapes allow.

- "kernel" is for TPUs: `attention_kernel`, whose logits never leave the chip. On other devices it
  is interpreted, slowly, for tests.
- "cudnn" is for GPUs: cuDNN's fused kernel.
- "xla" is for all devices: XLA writes and reads the logits, or the weights, several times.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.tree import Array
from ssl_jax.nets import attention_kernel as kernel

AttentionForm = Literal["auto", "kernel", "cudnn", "xla"]

INTERPRETED_AS = "TPU v5 lite"  # the chip whose limits hold where the kernel is interpreted


def attend(
    qkv: Array, heads: int, bias: Array | None = None, form: AttentionForm = "auto"
) -> Array:
    """Compute softmax(q k' / sqrt(D) + bias) v of every head.

    On a mesh in context (`jax.set_mesh`) the batch is split over all devices. The softmax is taken
    in at least float32.

    Args:
      qkv: (B, T, 3 C), the queries of all heads, then the keys, then the values.
      heads: number of heads, each of D = C / heads channels.
      bias: (N, heads or 1, T or 1, T), added to the logits, where N divides B: sequence b has the
        bias b % N.
      form: see the module; "auto" chooses by `choose`.

    Returns:
      (B, T, C).

    Raises:
      UserError: an unknown form, or one that does not compute this.
    """
    check_form(form)
    mesh = jax.sharding.get_abstract_mesh()
    local = _local_shape(qkv.shape, mesh)
    platform, kind, count = _device(mesh)
    part: Any = bias
    if bias is not None and local is not None and bias.shape[0] == qkv.shape[0]:  # per sequence
        part = jax.ShapeDtypeStruct((local[0], *bias.shape[1:]), bias.dtype)
    best = choose(local, qkv.dtype, heads, part, platform, kind, count)
    as_if = kind if platform == "tpu" else INTERPRETED_AS
    runs = local is not None and kernel.supports(local, qkv.dtype, heads, part, as_if)
    if form == "kernel" and not runs:
        raise UserError(
            f"attention_form='kernel': expected a width of a multiple of {kernel.LANES}, tokens "
            f"that fit the chip's memory and a batch that {mesh.size} devices divide, got "
            f"{qkv.dtype} {qkv.shape} with {heads} heads; use 'auto'"
        )
    if form == "cudnn" and best != "cudnn":
        raise UserError(
            "attention_form='cudnn': expected a GPU, 16-bit floats, heads of a multiple of 8 "
            f"channels up to 128 and at most a bias (1, heads, T, T) of an even T, got {qkv.dtype} "
            f"{qkv.shape} with {heads} heads on {platform}; use 'auto'"
        )
    form = best if form == "auto" else form
    if form == "kernel":
        return _kernel(qkv, heads, bias, mesh)
    q, k, v = split_heads(qkv, heads)
    return jnp.reshape(_products(q, k, v, bias, form), (*qkv.shape[:2], -1))


def choose(
    shape: tuple[int, ...] | None,
    dtype: Any,
    heads: int,
    bias: Any,
    platform: str,
    kind: str,
    count: int,
) -> AttentionForm:
    """Return the best form.

    Args:
      shape: that of the `qkv` of one device, None if the devices do not divide the batch.
      dtype, heads, bias: see `attend`.
      platform, kind, count: platform and kind of a device, and how many may hold the arrays if
        there is no mesh in context.
    """
    if shape is None:
        return "xla"
    if platform == "tpu" and count == 1:
        return "kernel" if kernel.supports(shape, dtype, heads, bias, kind) else "xla"
    if platform in ("gpu", "cuda") and jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16):
        length, dim = shape[1], shape[2] // 3 // heads
        # A bias of relative positions; in training cuDNN takes one of even lengths only.
        plain = bias is None or (bias.shape == (1, heads, length, length) and length % 2 == 0)
        return "cudnn" if plain and dim % 8 == 0 and dim <= 128 else "xla"
    return "xla"


def check_form(form: str) -> None:
    """Check the name of a form.

    Raises:
      UserError: it is unknown.
    """
    if form not in get_args(AttentionForm):
        raise UserError(
            f"unknown attention_form {form!r}; {suggest(form, get_args(AttentionForm))}"
        )


def split_heads(qkv: Array, heads: int) -> tuple[Array, Array, Array]:
    """Split (B, T, 3 C) into queries, keys and values (B, T, heads, D)."""
    qkv = jnp.reshape(qkv, (*qkv.shape[:2], 3, heads, -1))
    return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


def weights(q: Array, k: Array, bias: Array | None = None) -> Array:
    """Compute softmax(q k' / sqrt(D) + bias) (B, heads, T, T), in at least float32, for queries and
    keys (B, T, heads, D).
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=dtype) * q.shape[-1] ** -0.5
    return jax.nn.softmax(logits if bias is None else logits + repeated(bias, q.shape[0]))


def repeated(bias: Array, batch: int) -> Array:
    """Repeat a bias (N, ...) of more than one part for a batch."""
    count = bias.shape[0]  # not `len`, as the batch of an exported program is a symbol
    return bias if count in (1, batch) else jnp.tile(bias, (batch // count, 1, 1, 1))


def _products(q: Array, k: Array, v: Array, bias: Array | None, form: AttentionForm) -> Array:
    """Compute attention (B, T, heads, D) by cuDNN or XLA."""
    if q.dtype == jnp.float64:
        # `dot_product_attention` takes the softmax in float32, whatever the inputs are.
        return jnp.einsum("bhqk,bkhd->bqhd", weights(q, k, bias), v)
    if bias is not None:
        bias = jnp.asarray(repeated(bias, q.shape[0]), q.dtype)
    implementation: Any = "cudnn" if form == "cudnn" else "xla"
    return jax.nn.dot_product_attention(q, k, v, bias=bias, implementation=implementation)


def _kernel(qkv: Array, heads: int, bias: Array | None, mesh: AbstractMesh) -> Array:
    """Run the kernel on the rows of each device of the mesh in context."""
    interpret = _device(mesh)[0] != "tpu"

    def run(qkv: Array, bias: Array | None) -> Array:
        return kernel.attend(qkv, bias, heads, interpret)

    if mesh.size > 1 and _is_auto(mesh):
        rows = P(mesh.axis_names)
        own = bias is not None and bias.shape[0] == qkv.shape[0]  # a bias per sequence
        specs = (rows, rows if own else P())
        run = jax.shard_map(run, in_specs=specs, out_specs=rows, check_vma=False)
    return run(qkv, bias)


def _local_shape(shape: tuple[int, ...], mesh: AbstractMesh) -> tuple[int, ...] | None:
    """Return the part of the shape that one device holds; None if it is not known."""
    if mesh.size <= 1 or all(kind == AxisType.Manual for kind in mesh.axis_types):
        return shape
    if not _is_auto(mesh) or shape[0] % mesh.size:
        return None
    return (shape[0] // mesh.size, *shape[1:])


def _is_auto(mesh: AbstractMesh) -> bool:
    return all(kind == AxisType.Auto for kind in mesh.axis_types)


def _device(mesh: AbstractMesh) -> tuple[str, str, int]:
    """Return platform, kind and number of the devices that compute; see `choose`."""
    device = mesh.abstract_device
    if device is not None:
        return device.platform, device.device_kind, 1
    devices = jax.devices()
    return devices[0].platform, devices[0].device_kind, len(devices)
