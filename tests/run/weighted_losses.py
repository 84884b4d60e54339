"""A method of two weighted losses that trains in seconds, for the tests of evolution."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp

from ssl_jax.core.ranges import Probability
from ssl_jax.objectives.base import Aux, Objective, View


@dataclass(frozen=True)
class WeightedLosses(Objective):
    """The features are pulled to 1 and to 0, each with a weight."""

    view: View = View(8, recipe="digits")
    weights: Mapping[str, Probability] = field(default_factory=lambda: {"one": 1.0, "zero": 1.0})

    def loss(self, params, extra, batch, key, step):
        nets = self.networks.bind(params, extra["stats"])
        x = nets.backbone(batch["views"][0][:, 0]).pooled
        parts = self.weights["one"] * jnp.mean((x - 1) ** 2), self.weights["zero"] * jnp.mean(x**2)
        return sum(parts), Aux({"stats": nets.stats})


make = WeightedLosses.make


def get_config(recipe: str = "digits") -> dict:
    return {
        "objective": {"name": __file__},
        "backbone": {"name": "resnet_small", "width": 4},
        "data": {"train": "digits"},
        "optim": {"name": "sgd", "lr": 0.1},
        "train": {"steps": 3, "batch_size": 8},
        "checkpoint": {"every": 1},
        "evals": {"protocols": ("zipf",), "zipf": {"examples": 40, "clusters": 4}},
    }
