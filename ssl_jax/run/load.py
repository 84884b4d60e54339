"""Load the encoder of a run or of a weights file; for subcommands, and as `ssl_jax.load`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ssl_jax.core import hub, sharding, trust
from ssl_jax.core.errors import UserError
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.run import orbax_export, weights_file
from ssl_jax.run.evaluation import steps_of
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.checkpoint import Checkpoints


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    stage: int | str | None = None,
    pool: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    backbone: Mapping[str, Any] | None = None,
    trust_code: bool = False,
) -> ImageEncoder:
    """Load the encoder of a run, its trained backbone (teacher or student, as the method defines),
    or of a weights file, with everything needed to call it on images.

    Args:
      path: the run's folder; or weights, ours or public ones (docs/weights.md): safetensors, npz or
        .pth, an index of several files, a folder as on the Hugging Face hub, or hf://USER/NAME.
      step: step of the run's checkpoint; by default the newest.
      stage: layer to read, a number (-1 is the last) or a name of `ImageEncoder.layers`; by
        default the method's representation.
      pool: "pooled" (the network's own output, of its last layer), "avg", "grid" (averages over 2
        x 2), "cls" (the layer's class token), or "none" for features at every position; by default
        the method's, or "avg" for an earlier layer if that is "pooled".
      mesh: devices, each of which holds all weights; any mesh; by default one device.
      backbone: settings that a public file's names and shapes do not determine, {"heads": 12}.
      trust_code: whether to run a method or network file in the folder of a run, or the
        network file that weights name (docs/safety.md).

    Raises:
      UserError: no such run, checkpoint, file or layer; a network that ours cannot compute
        completely.
    """
    devices = mesh or sharding.make_mesh(sharding.MeshConfig(), jax.local_devices()[:1])
    where = hub.model(os.fspath(path)).expanduser()
    if orbax_export.is_weights(where):
        if step is not None:
            raise UserError(f"{where} holds the weights of only one step; leave step out")
        with trust.scope(trust_code):
            encoder = weights_file.encoder(where, devices, backbone)
    elif backbone:
        raise UserError(f"{where} is a run, which specifies its backbone; leave backbone out")
    else:
        with trust.scope(trust_code):
            encoder = from_run(where, step, devices)
    return encoder if stage is None and pool is None else encoder.at(stage, pool)


def from_run(folder: Path, step: int | None, mesh: jax.sharding.Mesh) -> ImageEncoder:
    """Load the encoder of a checkpoint, the newest if `step` is None."""
    experiment = Experiment.of_run(folder)
    # Every device holds all weights, so the mesh need not have the axes of training.
    placed = jax.tree.map(lambda _: sharding.replicated(mesh), experiment.abstract_state)
    objective, config = experiment.objective, experiment.raw
    with Checkpoints(folder / "checkpoints", reader=True) as checkpoints, jax.set_mesh(mesh):
        (number,) = steps_of(folder, checkpoints, step)
        restored = checkpoints.restore(number, experiment.abstract_state, placed)
        encoder = objective.encoder(restored.params, restored.extra)
    return ImageEncoder.of(
        encoder,
        objective.inputs().views[0],
        objective.probe,
        objective.spec.channels,
        json.loads(json.dumps(config)),
        f"step {number} of {folder} ({config['objective']['name']})",
    )
