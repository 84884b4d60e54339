"""Self-attention as TPU kernels (Pallas) whose logits never leave the chip.

One step of the grid reads queries, keys and values of a few sequences as the linear layer left
them, (T, 3 C), computes one head after another in VMEM and writes (T, C). Keys and values of a
sequence are whole, queries come in blocks, so the softmax needs no second pass. The backward pass
reads the same array and the gradient of the result, computes the weights again and writes one array
(T, 3 C). XLA's form writes and reads logits or weights, (heads, T, T), several times instead.
"""

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from ssl_jax.core.tree import Array

LANES = 128
WHOLE = 320  # the longest sequence whose queries are one block: code grows with the logits of one
ROWS = 128  # queries of a block of a longer one
BLOCK = 2 * 2**20  # bytes of queries, keys and values that a step reads, unless one has more
LEAST_VMEM = 16 * 2**20  # bytes of a core's memory, of v4 and older
VMEM = {"TPU v5 lite": 2**27, "TPU v6 lite": 2**27, "TPU v5": 2**26, "TPU v5p": 2**26}


def supports(shape: tuple[int, ...], dtype: Any, heads: int, bias: Any, device: str) -> bool:
    """Return whether the kernels compute attention of `shape` (B, T, 3 C) on this kind of TPU: bf16
    or float32, whole tiles of 128 channels, a bias as `attend` describes it, and enough VMEM for a
    sequence.
    """
    rows, _, wide = shape
    channels = wide // 3
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float32) or channels % LANES or not rows:
        return False
    if bias is not None and rows % bias.shape[0]:
        return False
    return _Plan.of(shape, dtype, heads, bias).vmem <= _vmem(device)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def attend(qkv: Array, bias: Array | None, heads: int, interpret: bool) -> Array:
    """Compute softmax(q k' / sqrt(D) + bias) v of every head.

    Args:
      qkv: (B, T, 3 C), the queries of all heads, then the keys, then the values.
      bias: (N, heads or 1, T or 1, T); sequence b has the bias b % N. None for none.
      heads: number of heads, each of D = C / heads channels.
      interpret: run on any device, slowly, for tests.

    Returns:
      (B, T, C). Products accumulate in float32, in which the softmax is taken, too.
    """
    plan = _Plan.of(qkv.shape, qkv.dtype, heads, bias)
    out = jax.ShapeDtypeStruct((*plan.grid_shape, plan.channels), qkv.dtype)
    (out,) = _call(plan, _forward_body, qkv, bias, (), (out,), products=2, interpret=interpret)
    return out.reshape(*qkv.shape[:2], plan.channels)


def _save(qkv: Array, bias: Array | None, heads: int, interpret: bool) -> tuple[Array, Any]:
    return attend(qkv, bias, heads, interpret), (qkv, bias)


def _backward(heads: int, interpret: bool, saved: Any, out_grad: Array) -> tuple[Array, Any]:
    qkv, bias = saved
    plan = _Plan.of(qkv.shape, qkv.dtype, heads, bias)
    outputs = [jax.ShapeDtypeStruct((*plan.grid_shape, qkv.shape[-1]), qkv.dtype)]
    if bias is not None:
        outputs.append(jax.ShapeDtypeStruct(bias.shape, jnp.float32))
    read = (out_grad.astype(qkv.dtype).reshape(*plan.grid_shape, plan.channels),)
    made = _call(plan, _backward_body, qkv, bias, read, outputs, products=5, interpret=interpret)
    return made[0].reshape(qkv.shape), None if bias is None else made[1].astype(bias.dtype)


attend.defvjp(_save, _backward)


class _Plan(NamedTuple):
    """Cut of attention into the steps of a grid.

    Attributes:
      turns, biases: the batch is `turns` times the different biases.
      length, channels, heads: T, C and the heads.
      images: sequences of a step.
      group: channels, whole heads in whole tiles, that are read at once.
      rows: queries of a block.
      vmem: bytes of the blocks, twice for the transfers, and of what is computed from them, in the
        backward pass.
    """

    turns: int
    biases: int
    length: int
    channels: int
    heads: int
    images: int
    group: int
    rows: int
    vmem: int

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: Any, heads: int, bias: Any) -> "_Plan":
        batch, length, wide = shape
        biases, channels, size = (
            1 if bias is None else bias.shape[0],
            wide // 3,
            jnp.dtype(dtype).itemsize,
        )
        turns, dim = batch // biases, channels // heads
        sequence = _padded(length, 32 // size) * _padded(wide, LANES) * size
        images = max(
            (n for n in range(1, turns + 1) if turns % n == 0 and n * sequence <= BLOCK), default=1
        )
        group = math.lcm(dim, LANES)
        group = group if channels % group == 0 else channels
        rows = length if length <= WHOLE else ROWS
        logits = _padded(rows, 8) * _padded(length, LANES) * 4
        vmem = (
            2 * images * sequence * 7 // 3
            + 6 * logits
            + 8 * _padded(length, 8) * _padded(group, LANES) * 4
        )
        if bias is not None:
            _, many, queries, keys = bias.shape
            elements = many * _padded(queries, 8) * _padded(keys, LANES)
            vmem += 2 * elements * (bias.dtype.itemsize + 4)
        return cls(turns, biases, length, channels, heads, images, group, rows, vmem)

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        return self.turns, self.biases, self.length

    def each(self, body: Any) -> None:
        """Run `body(image, first channel)` for every group of heads of every sequence of a step."""
        groups = self.channels // self.group

        def turn(i: Array, _: None) -> None:
            body(i // groups, pl.multiple_of(i % groups * self.group, LANES))

        jax.lax.fori_loop(0, self.images * groups, turn, None)

    def each_block(self, body: Any) -> None:
        """Run `body(rows)` for every block of queries."""
        full, rest = divmod(self.length, self.rows)
        if full == 1:
            body(pl.ds(0, self.rows))
        elif full:

            def turn(i: Array, _: None) -> None:
                body(pl.ds(pl.multiple_of(i * self.rows, self.rows), self.rows))

            jax.lax.fori_loop(0, full, turn, None)
        if rest:
            body(pl.ds(full * self.rows, rest))

    def parts(self, first: Array) -> tuple[Any, Any, Any]:
        """Return where queries, keys and values of a group lie among the channels."""
        q, k, v = (pl.ds(i * self.channels + first, self.group) for i in range(3))
        return q, k, v

    @property
    def dim(self) -> int:
        """Channels of a head."""
        return self.channels // self.heads

    @property
    def members(self) -> list[slice]:
        """Channels of each head of a group."""
        return [slice(at, at + self.dim) for at in range(0, self.group, self.dim)]


def _forward_body(plan: _Plan, qkv: Any, bias: Any, out: Any) -> None:
    def attend_group(image: Array, first: Array) -> None:
        queries, keys, values = plan.parts(first)

        def attend_block(rows: Any) -> None:
            q, k, v = qkv[image, rows, queries], qkv[image, :, keys], qkv[image, :, values]
            heads = []
            for i, part in enumerate(plan.members):
                head = first // plan.dim + i
                e, total = _exponentials(q[:, part], k[:, part], bias, head, rows)
                heads.append(_dot(e.astype(v.dtype), v[:, part], 1, 0) / total)
            out[image, rows, pl.ds(first, plan.group)] = _joined(heads, out.dtype)

        plan.each_block(attend_block)

    plan.each(attend_group)


def _backward_body(
    plan: _Plan, qkv: Any, bias: Any, out_grad: Any, qkv_grad: Any, *rest: Any
) -> None:
    *bias_grad, k_total, v_total = rest
    scale = plan.dim**-0.5
    for array in bias_grad:

        @pl.when(pl.program_id(1) == 0)
        def _(array: Any = array) -> None:
            array[...] = jnp.zeros_like(array)

    def attend_group(image: Array, first: Array) -> None:
        queries, keys, values = plan.parts(first)
        k_total[...] = jnp.zeros_like(k_total)
        v_total[...] = jnp.zeros_like(v_total)

        def attend_block(rows: Any) -> None:
            q, k, v = qkv[image, rows, queries], qkv[image, :, keys], qkv[image, :, values]
            grad = out_grad[image, rows, pl.ds(first, plan.group)]
            q_grads, k_grads, v_grads = [], [], []
            for i, part in enumerate(plan.members):
                head = first // plan.dim + i
                e, total = _exponentials(q[:, part], k[:, part], bias, head, rows)
                p = e / total
                v_grads.append(_dot(p.astype(v.dtype), grad[:, part], 0, 0))
                change = _dot(grad[:, part], v[:, part], 1, 1)
                s_grad = p * (change - jnp.sum(p * change, 1, keepdims=True))
                for array in bias_grad:
                    _add(array, head, rows, s_grad)
                narrow = (s_grad * scale).astype(k.dtype)
                q_grads.append(_dot(narrow, k[:, part], 1, 0))
                k_grads.append(_dot(narrow, q[:, part], 0, 0))
            qkv_grad[image, rows, queries] = _joined(q_grads, qkv_grad.dtype)
            k_total[...] += jnp.concatenate(k_grads, 1)
            v_total[...] += jnp.concatenate(v_grads, 1)

        plan.each_block(attend_block)
        qkv_grad[image, :, keys] = k_total[...].astype(qkv_grad.dtype)
        qkv_grad[image, :, values] = v_total[...].astype(qkv_grad.dtype)

    plan.each(attend_group)


def _exponentials(q: Array, k: Array, bias: Any, head: Array, rows: Any) -> tuple[Array, Array]:
    """Return exp(logits - their largest), (rows, T), and the sum of each row, (rows, 1)."""
    logits = _dot(q, k, 1, 1) * q.shape[-1] ** -0.5
    if bias is not None:
        many, queries, _ = bias.shape
        own = bias[head if many > 1 else 0, rows if queries > 1 else slice(None)]
        logits += own.astype(jnp.float32)
    e = jnp.exp(logits - jnp.max(logits, 1, keepdims=True))
    return e, jnp.sum(e, 1, keepdims=True)


def _add(total: Any, head: Array, rows: Any, s_grad: Array) -> None:
    """Add the gradient of the logits to that of the bias."""
    many, queries, _ = total.shape
    if queries == 1:
        rows, s_grad = slice(None), jnp.sum(s_grad, 0, keepdims=True)
    total[head if many > 1 else 0, rows] += s_grad


def _joined(heads: list[Array], dtype: Any) -> Array:
    return jnp.concatenate(heads, 1).astype(dtype)


def _dot(a: Array, b: Array, contract_a: int, contract_b: int) -> Array:
    dimensions = (((contract_a,), (contract_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _vmem(device: str) -> int:
    """Return the bytes of VMEM that a kernel may use, three quarters of a core's."""
    return VMEM.get(device, LEAST_VMEM) // 4 * 3


def _call(
    plan: _Plan,
    body: Any,
    qkv: Array,
    bias: Array | None,
    read: Any,
    outputs: Any,
    *,
    products: int,
    interpret: bool,
) -> Any:
    """Run `body(plan, qkv, bias or None, *read, *outputs)` over the biases and, for each, over the
    sequences. An output with the shape of the bias stays in VMEM for all sequences of a bias.
    """
    qkv = qkv.reshape(*plan.grid_shape, qkv.shape[-1])

    def sequences(array: Any) -> pl.BlockSpec:
        shape = (plan.images, None, *array.shape[2:])
        return pl.BlockSpec(shape, lambda n, m: (m, n, 0, 0))

    def biases(array: Any) -> pl.BlockSpec:
        return pl.BlockSpec((None, *array.shape[1:]), lambda n, m: (n, 0, 0, 0))

    first, *rest = outputs
    optional = () if bias is None else (bias,)
    arrays = (qkv, *optional, *read, *outputs)
    batch = plan.turns * plan.biases
    cost = pl.CostEstimate(
        flops=products * 2 * batch * plan.length**2 * plan.channels,
        transcendentals=batch * plan.heads * plan.length**2,
        bytes_accessed=sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays),
    )

    def run(qkv: Any, *references: Any) -> None:
        if bias is None:
            references = (None, *references)
        body(plan, qkv, *references)

    order: Literal["arbitrary", "parallel"] = "arbitrary" if rest else "parallel"
    total = pltpu.VMEM((plan.length, plan.group), jnp.float32)
    return pl.pallas_call(
        run,
        out_shape=tuple(outputs),
        grid=(plan.biases, plan.turns // plan.images),
        in_specs=[sequences(qkv), *map(biases, optional), *map(sequences, read)],
        out_specs=(sequences(first), *map(biases, rest)),
        scratch_shapes=(total, total) if read else (),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", order), vmem_limit_bytes=max(plan.vmem, LEAST_VMEM)
        ),
        cost_estimate=cost,
        interpret=interpret,
    )(qkv, *optional, *read)
