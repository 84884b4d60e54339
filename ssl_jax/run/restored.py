"""The state of a run at a step, on the host, and the card of its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.augment.recipes import plain, recipe, statistics
from ssl_jax.core.errors import UserError
from ssl_jax.core.versions import versions
from ssl_jax.data.decode import EVAL_SHARE
from ssl_jax.run import roles
from ssl_jax.run.evaluation import steps_of
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.metrics import read_summary
from ssl_jax.weights import networks
from ssl_jax.weights.networks import REST

Tensors = Mapping[str, np.ndarray]


class RestoredRun:
    """The state of a run at a step, on the host."""

    def __init__(self, experiment: Experiment, folder: Path, step: int, state: Any, metadata: Any):
        self.experiment, self.folder, self.step = experiment, folder, step
        self.params, self.extra = jax.device_get((state.params, state.extra))
        self.metadata: Mapping[str, Any] = metadata

    @classmethod
    def restored(cls, folder: Path, step: int | None = None) -> "RestoredRun":
        """Restore the state of a run from a checkpoint, by default the newest.

        Raises:
          UserError: no such run or checkpoint.
        """
        experiment = Experiment.of_run(folder)
        checkpoints = Checkpoints(folder / "checkpoints", reader=True)
        with checkpoints, jax.set_mesh(experiment.mesh):
            number = next(steps_of(folder, checkpoints, step))
            state = checkpoints.restore(number, experiment.abstract_state, experiment.placed)
            return cls(experiment, folder, number, state, checkpoints.metadata(number))

    @property
    def backbone(self) -> dict[str, Any]:
        """Section `backbone` of the config."""
        return self.experiment.backbone_options

    @property
    def channels(self) -> int:
        return self.experiment.spec.channels

    def tensors(self, part: str, encoder: str | None) -> tuple[Tensors, dict[str, str]]:
        """Return the variables to write, by our names, and the model card.

        Raises:
          UserError: the method has no teacher.
        """
        objective = self.experiment.objective
        variables, rest = roles.networks(objective, self.params, self.extra)
        default = objective.encoder(self.params, self.extra)
        role = encoder or roles.encoder_of(variables, default.params)
        if role not in variables:
            method = self.experiment.raw["objective"]["name"]
            raise UserError(f"--encoder={role}: {method} has no slow average; leave --encoder out")
        card = self.card(part, role)
        if part == "all" and not encoder:
            groups = {**variables, REST: rest}
            named = {f"{k}/{path}": x for k, group in groups.items() for path, x in group.items()}
            return named, card
        heads = part == "all"
        own = {p: x for p, x in variables[role].items() if heads or p.startswith("backbone/")}
        return own, card

    def card(self, part: str, role: str) -> dict[str, str]:
        """Return the origin of the weights and their preprocessing, as texts, most of them JSON."""
        experiment = self.experiment
        view = experiment.objective.inputs().views[0]
        mean, std = statistics(recipe(view.recipe), self.channels)
        preprocessing = {
            "size": view.size,
            "recipe": plain(view.recipe),
            "crop": EVAL_SHARE,  # of the shorter side, centered, unless that is no larger
            "scale": "pixels / 255, then (x - mean) / std",
            "mean": np.broadcast_to(mean, self.channels).astype(float).round(6).tolist(),
            "std": np.broadcast_to(std, self.channels).astype(float).round(6).tolist(),
        }
        results = read_summary(self.folder)
        prefixes = ("eval/", "diag/", "untrained/", "pixels/", "step")
        current = versions("ssl-jax", "jax", "flax", "numpy")
        texts = {
            "backbone": self.backbone,
            "config": dict(experiment.raw),
            "data": self.metadata.get("data", ""),
            "preprocessing": preprocessing,
            "probe": vars(experiment.objective.probe),
            "results": {k: v for k, v in results.items() if k.startswith(prefixes)},
            "versions": {"trained": self.metadata.get("versions", {}), "exported": current},
        }
        return {
            "format": networks.OWN,
            "method": str(experiment.raw["objective"]["name"]),
            "step": str(self.step),
            "part": part,
            "encoder": role,
            "channels": str(self.channels),
            **{name: json.dumps(value, sort_keys=True) for name, value in texts.items()},
        }
