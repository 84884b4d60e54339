"""Floating-point operations of a step, counted in its jaxpr: matmuls and convolutions only, loops
multiplied by their trip count.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from ssl_jax.cost.chips import chip


def peak(device_kind: str) -> float | None:
    """Return the bfloat16 FLOP/s of a chip, or None if it is unknown (a CPU)."""
    entry = chip(device_kind)
    return entry.flops if entry else None


def count(fn: Any, *args: Any) -> int:
    """Count the FLOPs (two per multiply-add) of `fn(*args)` without computing anything; `args` may
    be abstract.

    Recomputation due to `jax.checkpoint` is counted: this is what the hardware does. A kernel
    counts its `pallas.CostEstimate`, or else its body at each grid point; work under
    `jax.shard_map` counts for every device. Elementwise work is not counted.
    """
    return _flops(jax.make_jaxpr(fn)(*args).jaxpr)


def _flops(jaxpr: Jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        out: Any = eqn.outvars[0].aval if eqn.outvars else None
        operands: list[Any] = [v.aval for v in eqn.invars]
        if name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(operands[0].shape[d] for d in contract)
            total += 2 * out.size * depth
        elif name == "conv_general_dilated":
            kernel = operands[1]
            out_features = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
            # Where the input is dilated (the gradient of a strided convolution) most of it is
            # zeros.
            zeros = math.prod(eqn.params["lhs_dilation"])
            total += 2 * out.size * (kernel.size // out_features) // zeros
        elif name.startswith("dot_product_attention"):  # cuDNN's; its backward computes q k' again
            queries, keys = (x.shape for x in operands[:2])  # (B, T, heads, D)
            total += 2 * (5 if "_bwd" in name else 2) * math.prod(queries) * keys[1]
        elif name == "pallas_call" and eqn.params.get("cost_estimate") is not None:
            total += eqn.params["cost_estimate"].flops
        elif name == "pallas_call":
            total += math.prod(eqn.params["grid_mapping"].grid) * _flops(eqn.params["jaxpr"])
        elif name == "shard_map":
            sizes = [eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"]]
            total += math.prod(sizes) * _flops(eqn.params["jaxpr"])
        elif name == "cond":
            total += max(_flops(branch.jaxpr) for branch in eqn.params["branches"])
        else:
            inner = sum(_flops(sub) for sub in _inner(eqn.params.values()))
            total += inner * (eqn.params["length"] if name == "scan" else 1)
    return total


def _inner(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _inner(value)
