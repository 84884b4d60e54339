"""The keys of a config: the dataclass, or function, that declares those of each section."""

from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax import nets
from ssl_jax.core import config as checked
from ssl_jax.core.sharding import MeshConfig
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.optim.factory import OptimConfig
from ssl_jax.train.checkpoint import CheckpointConfig
from ssl_jax.train.loop import TrainConfig

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "optim": OptimConfig,
    "mesh": MeshConfig,
    "train": TrainConfig,
    "checkpoint": CheckpointConfig,
    "evals": EvalsConfig,
}


def settle_objective(make: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The section `objective` for the method that `make` builds, with the texts of a command line
    as values of the types that it declares.

    Raises:
      UserError: a text that is no value of its key's type.
    """
    owner = getattr(make, "__self__", None)  # the class, where `make` is `Objective.make`
    return checked.settle(owner if isinstance(owner, type) else make, values, "objective")


def settle_backbone(values: Mapping[str, Any]) -> dict[str, Any]:
    """The section `backbone`, likewise; as it is where its name is not known."""
    make = nets.BACKBONES.get(str(values.get("name", "resnet")))
    return dict(values) if make is None else checked.settle(make, values, "backbone")
