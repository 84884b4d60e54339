"""Floating-point operations of a step, counted in its jaxpr: loops by their trip count, matmuls and
convolutions only.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# Dense bfloat16 peak of one chip in FLOP/s, from the vendors' data sheets, by `device_kind` prefix.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak(device_kind: str) -> float | None:
    """FLOP/s of a chip, or None where it is not known (a CPU)."""
    return next((p for name, p in PEAKS.items() if device_kind.startswith(name)), None)


def count(fn: Any, *args: Any) -> int:
    """FLOPs (two a multiply-add) of `fn(*args)`; `args` may be abstract, and nothing is computed.

    Recomputation that `jax.checkpoint` causes is counted: this is what the hardware does.
    Elementwise work is not.
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
