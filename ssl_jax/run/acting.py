"""The connection of a run that acts with its environment: policy, acting loop, replay."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.control.acting import ActingLoop
from ssl_jax.control.replay import Replay, center_crop
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.core.sharding import replicated
from ssl_jax.data.sources.base import Source
from ssl_jax.data.sources.control import EnvironmentSource
from ssl_jax.objectives.base import Objective, Policy
from ssl_jax.training.state import TrainState

REPLAY = "replay"  # folder of a run


def check(inputs: Inputs, source: Source) -> None:
    """Check that the method acts if the data are an environment, and that its views fit.

    Raises:
      UserError: they do not.
    """
    if not isinstance(source, EnvironmentSource):
        return
    if not inputs.actions:
        raise UserError(
            f"data.train: {source.name} is an environment, and this method does not act; use a "
            "data set of images (docs/data.md), or a method for control"
        )
    view, side = inputs.views[0], source.settings.side
    if view.side > side:
        raise UserError(
            f"objective.size: a crop of {view.side} px is larger than the frames of {side} px; set "
            "it to control.side or less"
        )


def acting_loop(
    source: EnvironmentSource, objective: Objective, folder: Path, seed: int, start: int
) -> ActingLoop:
    """Make the acting loop of a run in `folder`, whose first batch is that of step `start`.

    Raises:
      UserError: there are several processes, each of which would act in a world of its own.
    """
    if jax.process_count() > 1:
        raise UserError(f"{source.name}: a run that acts has one process; start a single one")
    stacked = source.environment()
    environment, settings = stacked.environment, source.settings
    frame = (settings.side, settings.side, environment.channels)
    return ActingLoop(
        stacked,
        Replay(folder / REPLAY, settings, frame, environment.actions),
        settings,
        seed=seed,
        batch_size=objective.spec.global_batch,
        size=objective.inputs().views[0].side,
        start=start,
    )


Act = Callable[[TrainState, np.ndarray, int], np.ndarray]


def make_act(objective: Objective, seed: int, mesh: jax.sharding.Mesh) -> Act:
    """Return `(state, observations (B, side, side, C) uint8, number of the agent step) -> actions
    (B, A)`, drawn from the state's policy with a key from the seed and that number.
    """
    view = objective.inputs().views[0]

    def act(state: TrainState, observations: np.ndarray, number: int) -> np.ndarray:
        policy = objective.encoder(state.params, state.extra).policy
        images = center_crop(observations, view.side)
        arguments = jax.device_put((images, np.int32(number), np.uint32(seed)), replicated(mesh))
        return np.asarray(jax.device_get(_draw(view, policy, *arguments)))

    return act


@functools.partial(jax.jit, static_argnums=0)
def _draw(
    view: View, policy: Policy, images: jax.Array, number: jax.Array, seed: jax.Array
) -> jax.Array:
    key = rng.named(rng.step_key(seed, number), "act")
    return policy.actions(prepare(view, images), key).astype(jnp.float32)
