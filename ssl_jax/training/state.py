"""The train state: everything that a step reads and writes, born sharded."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from ssl_jax.core import rng, sharding, tree
from ssl_jax.core.placement import place
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
      skipped: int32 scalar, updates undone because their loss or gradient was not finite.
      in_row: int32 scalar, undone updates since the last good one.
      bad_step: int32 scalar, the first step at which more updates in a row were undone than
        allowed; -1 until then.
      params: parameters that the optimizer trains.
      extra: all other state of the objective.
      opt_state: the optimizer's state, one entry per parameter group.
    """

    step: Array
    seed: Array
    skipped: Array
    in_row: Array
    bad_step: Array
    params: Tree
    extra: Tree
    opt_state: Tree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InitialWeights:
    """Weights that a run starts from.

    Attributes:
      backbone: (params, stats) of the backbone and of every copy that the method makes of it; None
        for fresh ones.
      leaves: other arrays, by their path in the state ("params/projector/linear1/kernel").
    """

    backbone: tuple[Tree, Tree] | None
    leaves: Mapping[str, Array] = field(default_factory=dict)


def init_fn(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    leaves: Mapping[str, Array] = MappingProxyType({}),
) -> Callable[[Array], TrainState]:
    """Return `seed (uint32 scalar) -> fresh state`: pure, to be traced by `create` and `abstract`.

    `leaves`, by path, replace those that the method draws.
    """

    def weights(path: str, leaf: Array) -> Array:
        return jnp.copy(leaves[path]).astype(leaf.dtype) if path in leaves else leaf

    def init(seed: Array) -> TrainState:
        params, extra = objective.init(rng.named(jax.random.key(seed), "init"))
        both = tree.map_with_name(weights, {"params": params, "extra": extra})
        params, extra = both["params"], both["extra"]
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
    """Return the shapes and dtypes of the state without computing anything."""
    return jax.eval_shape(init_fn(objective, tx), jax.ShapeDtypeStruct((), jnp.uint32))


def shardings(state: TrainState, config: sharding.MeshConfig, mesh: Mesh) -> TrainState:
    """Return a sharding for each leaf of the abstract `state`."""
    return sharding.tree_shardings(state, config, mesh)


def create(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    seed: int,
    placed: TrainState,
    weights: InitialWeights | None = None,
) -> TrainState:
    """Create a fresh state, inside `jit`: no buffer is shared, so that every one can be donated.

    With `weights` the backbone starts from them, and so does every copy that the method makes of it
    (teacher, key encoder); then the single leaves are put in.
    """

    def init(seed: Array, weights: InitialWeights | None) -> TrainState:
        if weights is None or weights.backbone is None:
            return init_fn(objective, tx, weights.leaves if weights else {})(seed)
        copied = lambda key: jax.tree.map(jnp.copy, weights.backbone)  # noqa: E731
        own = objective.with_backbone(dataclasses.replace(objective.backbone, init=copied))
        return init_fn(own, tx, weights.leaves)(seed)

    where: Any = placed.seed
    return jax.jit(init, out_shardings=placed)(place(np.uint32(seed), where), weights)
