"""QB-Heat (2211.13228).

ssl-jax train --config=qb_heat:digits --workdir=W
ssl-jax train --config=qb_heat:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=qb_heat:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

ADAMW: dict[str, Any] = {
    "name": "adamw",
    "lr": 1.5e-4,
    "b2": 0.95,
    "weight_decay": 0.1,
    "warmup_epochs": 10.0,
}


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A quadrant has 2 x 2 patches of 4 pixels."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "qb_heat",
        "view": view,
        "dim": 64,
        "decoder_dim": 64,
        "decoder_depth": 1,
    }
    optim = {"name": "adamw", "lr": 2e-3, "b2": 0.95, "weight_decay": 0.05}
    config = common.digits(objective, optim, steps=1000, batch_size=128)
    config.backbone = common.TINY_VIT_MEAN | {"position": "sincos"}
    return config


def cifar10() -> ConfigDict:
    """No published recipe: the ResNet-18 of the other methods, with a small decoder."""
    objective = {
        "name": "qb_heat",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "mae"},
        "dim": 256,
        "decoder_dim": 256,
        "decoder_depth": 2,
    }
    return common.cifar10(objective, ADAMW, epochs=400, batch_size=512)


def imagenet() -> ConfigDict:
    """256 px, a quadrant of 128. The paper's networks (Mobile-Former) and its schedule are not
    available: a ResNet-50 and MAE's rate stand in.
    """
    return common.imagenet({"name": "qb_heat"}, ADAMW, epochs=100, batch_size=1024)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
