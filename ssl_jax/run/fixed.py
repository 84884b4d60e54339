"""Weights of the networks that a method never trains, its teacher's: `train.teacher_from`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from ssl_jax.core import hub, tree
from ssl_jax.core.errors import UserError
from ssl_jax.objectives.base import BACKBONE, FIXED, TOKENIZER, Encoder, Heads, ImageTokenizer
from ssl_jax.run import orbax_export
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import state
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.weights import conversion, networks

KEY = "train.teacher_from"
CLASSIFIER = "classifier"


def load(experiment: Experiment, console: Console) -> dict[str, jax.Array]:
    """Load what `train.teacher_from` names: path in the state -> array; {} for a method without
    fixed networks.

    Raises:
      UserError: no such run, checkpoint or file, or it holds other networks.
    """
    check(experiment)
    name = experiment.train.teacher_from
    if not name:
        return {}
    if not is_run(Path(name)):
        variables: Mapping[str, Any] = _of_file(experiment)
        console.print(f"teacher from {name}")
    else:
        other = Experiment.of_run(Path(name))
        placed = state.shardings(other.abstract_state, experiment.sections["mesh"], experiment.mesh)
        with Checkpoints(Path(name) / "checkpoints", reader=True) as checkpoints:
            if (step := checkpoints.latest) is None:
                raise UserError(f"{KEY}: {name} holds no checkpoint yet")
            restored = checkpoints.restore(step, other.abstract_state, placed)
        variables = _flat(other.objective.encoder(restored.params, restored.extra))
        console.print(f"teacher from step {step} of {name} ({other.raw['objective']['name']})")
    shardings = tree.named_leaves({"extra": experiment.placed.extra})
    return {
        place: _placed(variables[path], shardings[place])
        for path, place in _places(experiment).items()
    }


def check(experiment: Experiment) -> None:
    """Check that `load` will find networks that fit. Of a run only the config is read.

    Raises:
      UserError: as `load`; a method without fixed networks; or one with, but no teacher.
    """
    name, method = experiment.train.teacher_from, experiment.raw["objective"]["name"]
    needed = experiment.objective.fixed_networks
    if needed is None:
        if name:
            raise UserError(f"{KEY}: {method} has no teacher that was trained before; leave it out")
        return
    if not name:
        raise UserError(
            f"{KEY}: {method} learns from a network that was trained before; set it to that run's "
            "folder or to a file of weights"
        )
    shapes = {path: leaf.shape for path, leaf in _leaves(experiment).items()}
    if not is_run(Path(name)):
        variables: Mapping[str, Any] = _of_file(experiment)
    else:
        other = Experiment.of_run(Path(name))
        abstract = other.abstract_state
        encoder = jax.eval_shape(other.objective.encoder, abstract.params, abstract.extra)
        variables = _flat(encoder)
    if TOKENIZER in needed.nets:
        _check_codes(name, {path: leaf.shape for path, leaf in variables.items()}, shapes)
    missing = tuple(path for path in shapes if path not in variables)
    if any(path.startswith(CLASSIFIER) for path in missing):
        raise UserError(f"{KEY}: {name} has no classifier; fine-tune it with `supervised` first")
    wrong = tuple(
        f"{path} {variables[path].shape} for {shape}"
        for path, shape in shapes.items()
        if path in variables and variables[path].shape != shape
    )
    own = (p for p in variables if p.startswith(f"{BACKBONE}/") and not p.endswith("/mask_token"))
    inside = [p for p in own if p not in shapes]
    report = conversion.LoadReport(0, missing=missing, wrong=wrong, inside=tuple(inside))
    codes = TOKENIZER in needed.nets
    section = f"objective.{TOKENIZER}.{BACKBONE}" if codes else "objective.teacher_backbone"
    if report.complaint():
        raise UserError(
            f"{KEY}: {name} holds another network than the method's teacher: {report.complaint()}; "
            f"give {section} the values that `backbone` has there"
        )
    if is_run(Path(name)):
        ours = _section(needed.nets[BACKBONE].config)
        try:
            networks.agree(ours, other.raw.get(BACKBONE, {}), section=section)
        except UserError as e:
            raise UserError(f"{KEY}: {name}: {e}") from None


def _check_codes(name: str, shapes: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Check that variables of these `shapes` hold a tokenizer with the codes that are `needed`.

    Raises:
      UserError: they do not.
    """
    own, expected = _vocabulary(shapes), _vocabulary(needed)
    if own is None:
        raise UserError(
            f"{KEY}: {name} has no codes: it is not a tokenizer (docs/methods/masked.md)"
        )
    if own != expected:
        (count, width), section = own, f"objective.{TOKENIZER}"
        raise UserError(
            f"{KEY}: {name} has another vocabulary than the method; set "
            f"{section}.vocabulary={count} and {section}.code_dim={width}"
        )


def _vocabulary(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Return the number of codes and the width of the codebook, as for `nets.codes.code_head`."""
    if codebook := shapes.get(f"{TOKENIZER}/codebook"):
        return codebook[0], codebook[1]
    logits = shapes.get(f"{TOKENIZER}/linear1/kernel")
    return None if logits is None else (logits[-1], 0)


def is_run(path: Path) -> bool:
    """Tell whether `path` is a run's folder, as is a missing path that is not named like a file."""
    if hub.is_on_hub(path):
        return False
    return not orbax_export.is_weights(path) and not (path.suffix and not path.exists())


def _of_file(experiment: Experiment) -> Mapping[str, np.ndarray]:
    """Return the variables of the file's encoder by path, with its heads."""
    path, needed = experiment.train.teacher_from, experiment.objective.fixed_networks
    assert needed is not None
    section = _section(needed.nets[BACKBONE].config)
    try:
        file = orbax_export.read_any(hub.model(path))
        weights = networks.of_file(file, path, section, experiment.spec.channels)
    except UserError as e:
        raise UserError(f"{KEY}: {e}") from None
    return weights.networks[weights.encoder]


def _section(config: Any) -> dict[str, Any]:
    """Return the section `backbone` of a config that builds a network."""
    return {"name": type(config).__module__.rpartition(".")[2]} | config.changes()


def _places(experiment: Experiment) -> dict[str, str]:
    """Map paths in the fixed networks ("classifier/linear1/kernel") to paths in the state."""
    return {
        path: f"extra/{FIXED}/{part}/{path}"
        for part, own in experiment.abstract_state.extra[FIXED].items()
        for path in tree.named_leaves(own)
    }


def _leaves(experiment: Experiment) -> dict[str, Any]:
    parts = experiment.abstract_state.extra[FIXED].values()
    return {path: leaf for part in parts for path, leaf in tree.named_leaves(part).items()}


def _flat(encoder: Encoder) -> dict[str, Any]:
    """Return the variables of an encoder, of its classifier and of its tokenizer by path."""
    heads: dict[str, Heads | ImageTokenizer | None] = {
        CLASSIFIER: encoder.classifier,
        TOKENIZER: encoder.tokenizer,
    }
    parts = {BACKBONE: (encoder.params, encoder.stats)}
    parts |= {name: (head.params, {}) for name, head in heads.items() if head is not None}
    return {
        f"{name}/{path}": leaf
        for name, trees in parts.items()
        for part in trees
        for path, leaf in tree.named_leaves(part).items()
    }


def _placed(array: Any, where: Any) -> jax.Array:
    if isinstance(array, jax.Array):
        return array
    return jax.make_array_from_callback(array.shape, where, array.__getitem__)
