"""The sections of a config, each with the dataclass or function that declares its keys."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax import nets
from ssl_jax.control.environment import ControlConfig
from ssl_jax.core import config as checked
from ssl_jax.core.sharding import MeshConfig
from ssl_jax.data.pipeline import DataConfig
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.optim.factory import OptimConfig
from ssl_jax.training.checkpoint import CheckpointConfig
from ssl_jax.training.loop import TrainConfig

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "control": ControlConfig,
    "optim": OptimConfig,
    "mesh": MeshConfig,
    "train": TrainConfig,
    "checkpoint": CheckpointConfig,
    "evals": EvalsConfig,
}


# A view's chain of augmentations is stored as `recipe`; configs may call it `transform`.
_TRANSFORM = re.compile(r"^(objective\.\w+(?:\.\d+)?)\.transform(?=\.|$)")


def stored_key(key: str) -> str:
    """Return the dotted key under which a run stores what `key` sets."""
    return _TRANSFORM.sub(r"\1.recipe", key)


def stored_objective(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section `objective` with the keys under which a run stores its views."""

    def renamed(view: Any) -> Any:
        if not isinstance(view, Mapping) or "transform" not in view:
            return view
        return {"recipe" if key == "transform" else key: value for key, value in view.items()}

    out = {key: renamed(value) for key, value in values.items()}
    if isinstance(out.get("views"), (list, tuple)):
        out["views"] = type(out["views"])(map(renamed, out["views"]))
    return out


def settle_objective(make: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the texts of a command line in the section `objective` to the types that the method
    built by `make` declares.

    Raises:
      UserError: a text that is not a value of its key's type.
    """
    owner = getattr(make, "__self__", None)  # the class, where `make` is `Objective.make`
    declared = owner if isinstance(owner, type) else make
    return checked.settle(declared, stored_objective(values), "objective")


def settle_backbone(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the section `backbone` likewise; that of an unknown backbone, or of a file, whose
    code runs only when it is built, stays as it is.
    """
    name = str(values.get("name", nets.DEFAULT))
    if name in nets.BACKBONES:
        return checked.settle(nets.backbone_class(name), values, "backbone")
    return {key: str(value) if key == "name" else value for key, value in values.items()}
