"""The encoder of a run or of a file of weights; for subcommands, and as `ssl_jax.load`."""

import json
import os
from pathlib import Path

import jax

from ssl_jax.augment.recipes import recipe
from ssl_jax.cli import orbax
from ssl_jax.cli.evaluate import NEWEST, steps_of
from ssl_jax.cli.experiment import Experiment
from ssl_jax.core import config as checked
from ssl_jax.core import sharding, trust
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.plain import from_json
from ssl_jax.embed.encoder import Encoder
from ssl_jax.objectives import base as objectives
from ssl_jax.objectives.base import Probe
from ssl_jax.train import state
from ssl_jax.train.checkpoint import Checkpoints
from ssl_jax.weights import networks

SIZE = 224  # of images, where a file does not say


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    stage: int | str | None = None,
    pool: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    trust_code: bool = False,
) -> Encoder:
    """The encoder of a run, its trained backbone (teacher or student, as the method says), or of a
    file of weights, with what it needs to be called on images.

    Args:
      path: the run's folder; or a file, safetensors, npz or .pth, ours or a public one
        (docs/weights.md).
      step: of the run's checkpoint; by default the newest.
      stage: the layer to read, a number (-1 is the last) or a name of `Encoder.layers`; by default
        where the method's representation is.
      pool: "pooled" (the network's own output, of its last layer), "avg", "grid" (averages over 2
        x 2), "cls" (the layer's class token), or "none" for features of every place; by default the
        method's, and "avg" of an earlier layer where that is "pooled".
      mesh: devices that hold the weights, each all of them; by default one.
      trust_code: run a method file that lies in the folder of a run (docs/safety.md).

    Raises:
      UserError: no such run, checkpoint, file or layer.
    """
    devices = mesh or sharding.make_mesh(sharding.MeshConfig(), jax.local_devices()[:1])
    where = Path(path).expanduser()
    if where.is_file() or orbax.is_exported(where):
        if step is not None:
            raise UserError(f"{where} holds weights of one step; leave the step out")
        made = from_file(where, devices)
    else:
        with trust.scope(trust_code):
            made = from_run(where, step, devices)
    return made if stage is None and pool is None else made.at(stage, pool)


def from_run(folder: Path, step: int | None, mesh: jax.sharding.Mesh) -> Encoder:
    """The encoder of a checkpoint, the newest where `step` is None."""
    experiment = Experiment.of_run(folder)
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
    """The encoder in a file of weights, ours or a public one, or in an exported Orbax folder.

    A file that does not say how its network is fed is fed as most public ones are: 224 pixels, or
    what its positions are for, with ImageNet's mean and deviation; and read at the network's own
    output.
    """
    weights = networks.of_file(orbax.read_any(path), str(path))
    params, stats = jax.device_put(weights.variables(), sharding.replicated(mesh))
    backbone = dict(weights.backbone)
    try:
        fed, read, config = (
            from_json(weights.metadata.get(name, "{}"))
            for name in ("preprocessing", "probe", "config")
        )
        size = int(fed.get("size") or backbone.get("image_size") or SIZE)
        own = {"size": size, "recipe": fed.get("recipe", "normalize")}
        view = checked.build(View, own, "preprocessing")
        stage, pool = read.get("stage"), read.get("pool")
        probe = Probe(pool="pooled").at(
            None if stage is None else int(stage), None if pool is None else str(pool)
        )
        settings = dict(config) or {"backbone": backbone}
    except (ValueError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: what it says of itself cannot be used: {e}") from None
    recipe(view.recipe)  # raises for one that is not known
    base = objectives.Encoder(params, stats, weights.net)
    return Encoder.of(base, view, probe, weights.channels, settings, str(path))
