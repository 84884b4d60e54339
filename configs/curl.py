"""CURL (2004.04136): contrastive learning for control from pixels.

ssl-jax train --config=curl:pendulum --workdir=W
ssl-jax train --config=curl:cartpole_swingup --workdir=W

The second needs the extra `rl`; docs/control.md lists the environments.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

# alpha_lr 1e-4 beside 1e-3.
OPTIM: dict[str, Any] = {
    "name": "adamw",
    "lr": 1e-3,
    "lr_scaling": "none",
    "schedule": "constant",
    "lr_rules": (("^temperature/", 0.1), (".*", 1.0)),
}


def get_config(recipe: str = "cartpole_swingup") -> ConfigDict:
    return RECIPES.build(recipe)


def pendulum() -> ConfigDict:
    """The pendulum drawn in NumPy, 24 px crops of 28 px frames, 8 convolution channels."""
    return ConfigDict(
        {
            "objective": {
                "name": "curl",
                "size": 24,
                "hidden": 128,
                "discount": 0.97,
                "critic_rate": 0.05,
            },
            "backbone": {"name": "pixel", "width": 8, "depth": 3},
            "data": {"train": "control:pendulum"},
            "control": {"side": 28, "action_repeat": 2, "capacity": 20_000, "random_steps": 500},
            "optim": OPTIM,
            "train": {"steps": 2500, "batch_size": 64, "log_every": 100},
            "checkpoint": {"every": 500},
            "evals": {"every": 500, "protocols": ("episodes",)},
        }
    )


def cartpole_swingup() -> ConfigDict:
    """DMControl500k of the README: batch 128, action repeat 8, 62,500 agent steps."""
    return ConfigDict(
        {
            "objective": {"name": "curl"},
            "backbone": {"name": "pixel"},
            "data": {"train": "control:cartpole_swingup"},
            "control": {"action_repeat": 8},
            "optim": OPTIM,
            "train": {"steps": 61_500, "batch_size": 128, "log_every": 100},
            "checkpoint": {"every": 5000},
            "evals": {"every": 5000, "protocols": ("episodes",)},
        }
    )


RECIPES = common.Recipes(small=pendulum, paper=cartpole_swingup)
