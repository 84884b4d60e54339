"""A refresh: a pass over the whole data set and the method's update from its outputs.

All of it runs on the devices; no device ever holds more than its rows of the recorded outputs.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import distributed, rng, sharding
from ssl_jax.core.inputs import Size, sides
from ssl_jax.core.placement import prefetch_to_device
from ssl_jax.data.pipeline import Batch
from ssl_jax.objectives.base import DataPass, Objective
from ssl_jax.optim.factory import reset
from ssl_jax.training.state import TrainState

Array = jax.Array
Examples = Iterable[Batch]


def make_recorder(objective: Objective) -> Callable[..., DataPass]:
    """Return `(params, extra, pass so far, images (B, H, W, C) uint8, index (B,)) -> pass with
    these rows written`; pure. Rows of index -1 are padding.
    """
    view = objective.inputs().views[0]

    def record(
        params: Any, extra: Any, features: DataPass, images: Array, index: Array
    ) -> DataPass:
        recorded = objective.record(params, extra, prepare(view, images))
        rows = jnp.where(index < 0, features.present.shape[0], index)  # out of bounds: dropped
        return DataPass(
            features.values.at[rows].set(recorded.astype(features.values.dtype), mode="drop"),
            features.present.at[rows].set(True, mode="drop"),
        )

    return record


def empty_pass(objective: Objective, state: TrainState, size: Size) -> DataPass:
    """Create an empty pass for images of `size` pixels; call it in `jax.jit`."""
    image = jax.ShapeDtypeStruct((1, *sides(size), objective.spec.channels), jnp.float32)
    row = jax.eval_shape(objective.record, state.params, state.extra, image)
    rows = sharding.padded_rows(objective.spec.num_examples)
    return DataPass(jnp.zeros((rows, *row.shape[1:]), row.dtype), jnp.zeros((rows,), bool))


def make_kernel(
    objective: Objective, tx: optax.GradientTransformationExtraArgs
) -> Callable[[TrainState, DataPass | None], TrainState]:
    """Return `(state, pass) -> state`, the method's `refresh` and the restart of its optimizer
    groups; pure.

    All randomness is a function of (seed, step), so an interrupted refresh gives the same result
    when repeated.
    """

    def kernel(state: TrainState, features: DataPass | None) -> TrainState:
        key = rng.named(rng.step_key(state.seed, state.step), "refresh")
        params, extra = objective.refresh(state.params, state.extra, features, key, state.step)
        opt_state = reset(tx, state.opt_state, params, objective.refresh_groups)
        return replace(state, params=params, extra=extra, opt_state=opt_state)

    return kernel


def make_refresh(
    objective: Objective,
    tx: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    placed: TrainState,
) -> Callable[[TrainState, Callable[[], Examples]], TrainState]:
    """Return `(state, examples) -> state`; the state keeps its shardings and types and is donated.

    `examples` is a function, called only if a pass is due, that returns this host's part of the
    examples in batches: `images` (b, H, W, C) uint8, centrally cropped, and `index` (b,) int32.
    """
    rows, steps = sharding.batch_sharding(mesh), objective.pass_steps()
    size = objective.inputs().views[0].size
    blank = jax.jit(lambda state: empty_pass(objective, state, size), out_shardings=rows)
    record = jax.jit(make_recorder(objective), donate_argnums=2, out_shardings=rows)
    kernel = jax.jit(make_kernel(objective, tx), donate_argnums=0, out_shardings=placed)

    def refresh(state: TrainState, examples: Callable[[], Examples]) -> TrainState:
        features = None
        if int(state.step) in steps:
            features = blank(state)
            for batch in prefetch_to_device(examples(), rows):
                distributed.tick()
                features = record(
                    state.params, state.extra, features, batch["images"], batch["index"]
                )
        return kernel(state, features)

    return refresh
