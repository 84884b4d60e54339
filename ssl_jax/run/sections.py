"""The sections of a config, each with the dataclass or function that declares its keys."""

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
    """Convert the texts of a command line in the section `objective` to the types that the method
    built by `make` declares.

    Raises:
      UserError: a text that is not a value of its key's type.
    """
    owner = getattr(make, "__self__", None)  # the class, where `make` is `Objective.make`
    return checked.settle(owner if isinstance(owner, type) else make, values, "objective")


def settle_backbone(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the section `backbone` likewise; an unknown backbone's section stays as it is."""
    name = str(values.get("name", nets.DEFAULT))
    known = name in nets.BACKBONES
    return checked.settle(nets.backbone_class(name), values, "backbone") if known else dict(values)
