"""The exponential average of all weights and batch statistics, to be evaluated in their place.

It is `extra["average"]`, an entry that only methods with a momentum above 0 have.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.core import tree

Array = jax.Array
Tree = Any


def start(momentum: float, params: Tree, stats: Tree) -> Tree:
    """Return the entry of `extra` at step 0: a copy of the weights, or {} without an average."""
    return {"average": {"params": params, "stats": stats}} if momentum else {}


def update(momentum: float, params: Tree, extra: Tree, step: Array) -> Tree:
    """Return `extra` after a step, whose momentum is at most (1 + step) / (10 + step)."""
    if not momentum:
        return extra
    early = jnp.minimum(momentum, (1 + step) / (10 + step))
    current = {"params": params, "stats": extra["stats"]}
    return dict(extra, average=tree.ema(extra["average"], current, early))


def teacher(extra: Tree) -> tuple[Tree, Tree] | None:
    """Return (params, stats) of the average, None without one."""
    average = extra.get("average")
    return None if average is None else (average["params"], average["stats"])


def evaluated(params: Tree, extra: Tree) -> tuple[Tree, Tree]:
    """Return (params, stats) of the average if there is one, else those that are trained."""
    return teacher(extra) or (params, extra["stats"])
