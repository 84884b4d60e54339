"""The encoder of another run, for protocols that compare two networks."""

from pathlib import Path

import jax

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.objectives.base import Encoder
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.checkpoint import Checkpoints


def network(mesh: jax.sharding.Mesh, folder: str) -> tuple[Encoder, View]:
    """Load the encoder of a run's newest checkpoint onto a mesh, and the view that it reads.

    Raises:
      UserError: no such run, or no checkpoint.
    """
    path = Path(folder).expanduser()
    experiment = Experiment.of_run(path)
    placed = jax.tree.map(lambda _: sharding.replicated(mesh), experiment.abstract_state)
    with Checkpoints(path / "checkpoints", reader=True) as checkpoints, jax.set_mesh(mesh):
        if checkpoints.latest is None:
            raise UserError(f"other={folder}: {path} holds no checkpoint yet")
        state = checkpoints.restore(checkpoints.latest, experiment.abstract_state, placed)
        encoder = experiment.objective.encoder(state.params, state.extra)
    return encoder, experiment.objective.inputs().views[0]
