"""The encoder of a run; used by every subcommand that needs one, and as `ssl_jax.load`."""

import json
import os
from pathlib import Path

import jax

from ssl_jax.cli.evaluate import NEWEST, steps_of
from ssl_jax.cli.experiment import Experiment
from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.embed.encoder import Encoder
from ssl_jax.train import state, workdir
from ssl_jax.train.checkpoint import Checkpoints


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    stage: int | str | None = None,
    pool: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Encoder:
    """The encoder of a run: its trained backbone (teacher or student, as the method says), with
    what it needs to be called on images.

    Args:
      path: the run's folder.
      step: of the checkpoint; by default the newest.
      stage: the layer to read, a number (-1 is the last) or a name of `Encoder.layers`; by default
        where the method's representation is.
      pool: "avg", "grid" (averages over 2 x 2), "cls", or "none" for features of every place; by
        default the method's.
      mesh: devices that hold the weights, each all of them; by default one.

    Raises:
      UserError: no such run, checkpoint or layer.
    """
    devices = mesh or sharding.make_mesh(sharding.MeshConfig(), jax.local_devices()[:1])
    where = Path(path).expanduser()
    made = from_file(where, devices) if where.is_file() else from_run(where, step, devices)
    return made if stage is None and pool is None else made.at(stage, pool)


def from_run(folder: Path, step: int | None, mesh: jax.sharding.Mesh) -> Encoder:
    """The encoder of a checkpoint, the newest where `step` is None."""
    experiment = Experiment.from_config(workdir.read_config(folder), folder)
    placed = state.shardings(experiment.abstract_state, sharding.MeshConfig(), mesh)
    objective, config = experiment.objective, experiment.raw
    with Checkpoints(folder / "checkpoints", reader=True) as checkpoints, jax.set_mesh(mesh):
        (number,) = steps_of(folder, checkpoints, NEWEST if step is None else step, None)
        restored = checkpoints.restore(number, experiment.abstract_state, placed)
        encoder = objective.encoder(restored.params, restored.extra)
    return Encoder.of(
        encoder,
        objective.inputs().views[0],
        objective.probe,
        objective.spec.channels,
        json.loads(json.dumps(config)),
        f"step {number} of {folder} ({config['objective']['name']})",
    )


def from_file(path: Path, mesh: jax.sharding.Mesh) -> Encoder:
    """The encoder in a file of weights."""
    raise UserError(f"{path} is a file; expected the folder of a run")
