"""The train state: everything that a step reads and writes, born sharded."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ssl_jax.core import rng, sharding
from ssl_jax.data.pipeline import place
from ssl_jax.objectives.base import Objective

Array = jax.Array
Tree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A step is a pure function of this and of a batch.

    Attributes:
      step: int32 scalar, the number of updates made.
      seed: uint32 scalar; all randomness of a step is a function of (seed, step).
      skipped: int32 scalar, updates that were undone as their loss or gradient was not finite.
      in_row: int32 scalar, those of them that no good one has followed.
      bad_step: int32 scalar, the first step that makes more of them in a row than are allowed, -1
        while there is none.
      params: what the optimizer trains.
      extra: what else the objective carries along.
      opt_state: the optimizer's, one entry a parameter group.
    """

    step: Array
    seed: Array
    skipped: Array
    in_row: Array
    bad_step: Array
    params: Tree
    extra: Tree
    opt_state: Tree


def init_fn(
    objective: Objective, tx: optax.GradientTransformationExtraArgs
) -> Callable[[Array], TrainState]:
    """seed (uint32 scalar) -> a fresh state; pure, to be traced by `create` and `abstract`."""

    def init(seed: Array) -> TrainState:
        params, extra = objective.init(rng.named(jax.random.key(seed), "init"))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            seed=seed,
            skipped=jnp.zeros((), jnp.int32),
            in_row=jnp.zeros((), jnp.int32),
            bad_step=jnp.full((), -1, jnp.int32),
            params=params,
            extra=extra,
            opt_state=tx.init(params),
        )

    return init


def abstract(objective: Objective, tx: optax.GradientTransformationExtraArgs) -> TrainState:
    """Shapes and dtypes of the state; nothing is computed."""
    return jax.eval_shape(init_fn(objective, tx), jax.ShapeDtypeStruct((), jnp.uint32))


def shardings(state: TrainState, config: sharding.MeshConfig, mesh: Mesh) -> TrainState:
    """A sharding for each leaf of the abstract `state`."""
    return sharding.tree_shardings(state, config, mesh)


def create(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    seed: int,
    placed: TrainState,
    backbone: tuple[Tree, Tree] | None = None,
) -> TrainState:
    """A fresh state. Built inside `jit`: no buffer is shared, so that every one can be donated.

    With `backbone`, (params, stats), the backbone starts as these, and so does whatever the method
    makes a copy of it: teacher, key encoder.
    """

    def init(seed: Array, backbone: tuple[Tree, Tree] | None) -> TrainState:
        own = objective
        if backbone is not None:
            given = lambda key: jax.tree.map(jnp.copy, backbone)  # noqa: E731
            own = own.with_backbone(dataclasses.replace(own.backbone, init=given))
        return init_fn(own, tx)(seed)

    where: Any = placed.seed
    return jax.jit(init, out_shardings=placed)(place(np.uint32(seed), where), backbone)
