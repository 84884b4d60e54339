"""Weights of the frozen networks that a method learns from (`Objective.frozen_networks`)."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Frozen
from ssl_jax.run import weights_file
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.load import from_run
from ssl_jax.run.pretrained import is_run
from ssl_jax.train.state import InitialWeights
from ssl_jax.weights import networks


def add(
    experiment: Experiment, console: Console, weights: InitialWeights | None
) -> InitialWeights | None:
    """Add the weights of the method's frozen networks to those that a new run starts from.

    Raises:
      UserError: no such run, checkpoint or file, or it holds another network.
    """
    placed = tree.named_leaves({"extra": experiment.placed.extra})
    leaves: dict[str, jax.Array] = {}
    for name, frozen in experiment.method.frozen_networks().items():
        if not frozen.source:
            console.print(f"objective.{name}_from is empty: the {name} is an untrained network")
            continue
        path = Path(frozen.source).expanduser()
        if is_run(path):
            encoder: Any = from_run(path, None, experiment.mesh)
            _compare(name, frozen, encoder)
        else:
            encoder = _of_file(name, frozen, experiment.mesh)
        variables = {"extra": {name: {"params": encoder.params, "stats": encoder.stats}}}
        leaves |= {
            place: jax.device_put(x, placed[place])
            for place, x in tree.named_leaves(variables).items()
            if place in placed  # not a mask token, say
        }
        console.print(f"{name}: {encoder.origin}", markup=False)
    if not leaves:
        return weights
    weights = weights or InitialWeights()
    return dataclasses.replace(weights, leaves={**weights.leaves, **leaves})


def check(experiment: Experiment) -> None:
    """Check that `add` will find weights that fit. Of a run only the config is read.

    Raises:
      UserError: no such run or file, or it holds another network.
    """
    for name, frozen in experiment.method.frozen_networks().items():
        path = Path(frozen.source).expanduser()
        if frozen.source and is_run(path):
            other = Experiment.of_run(path)
            abstract = other.abstract_state
            _compare(
                name,
                frozen,
                jax.eval_shape(other.objective.encoder, abstract.params, abstract.extra),
            )
        elif frozen.source:
            _of_file(name, frozen, experiment.mesh)


def _of_file(name: str, frozen: Frozen, mesh: jax.sharding.Mesh) -> Encoder:
    """Read the encoder of a file as the network that the method expects."""
    try:
        path = Path(frozen.source).expanduser()
        encoder = weights_file.encoder(path, mesh, _section(frozen.net, explicit=False))
    except UserError as e:
        text = str(e).replace("--config.backbone.", f"--config.objective.{name}_backbone.")
        raise UserError(f"objective.{name}_from: {text}") from None
    _compare(name, frozen, encoder)
    return encoder


def _compare(name: str, frozen: Frozen, encoder: Encoder) -> None:
    """Refuse an encoder that is another network than the method expects."""
    key, expected = f"objective.{name}_backbone", jax.eval_shape(frozen.net.init, jax.random.key(0))
    variables, own = networks.flat(encoder.params, encoder.stats), networks.flat(*expected)
    missing, wrong = networks.compare(variables, expected)
    more = tuple(path for path in variables if path not in own and path != "mask_token")
    if missing or wrong or more:
        report = networks.LoadReport(0, missing=missing, wrong=wrong, inside=more)
        raise UserError(
            f"objective.{name}_from: {frozen.source} holds another network than {key}: "
            f"{report.complaint()}. Give {key} the values of that network"
        )
    try:
        networks.agree(_section(frozen.net), _section(encoder.net))
    except UserError as e:
        text = str(e).replace("backbone.", f"{key}.")
        raise UserError(f"objective.{name}_from: {frozen.source}: {text}") from None


def _section(net: Net, explicit: bool = True) -> Mapping[str, Any]:
    """Return the section `backbone` that describes a network."""
    name = type(net.config).__module__.rpartition(".")[2]
    options = dataclasses.asdict(net.config.explicit()) if explicit else net.config.changes()
    return {"name": name} | options
