"""Denoising autoencoder (Vincent et al. 2010, JMLR 11).

ssl-jax train --config=autoencoder:digits --workdir=W
ssl-jax train --config=autoencoder:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=autoencoder:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Half of the pixels are masked: neighbours of 16 px images reveal a quarter of them."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {"name": "autoencoder", "view": view, "ratio": 0.5}
    return common.digits(objective, {"name": "adamw", "lr": 3e-3}, steps=800, batch_size=128)


def cifar10() -> ConfigDict:
    """No published recipe for a ResNet: RotNet's schedule."""
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "mae"}
    objective = {"name": "autoencoder", "view": view}
    return common.cifar10(objective, _adamw(), epochs=200, batch_size=256)


def imagenet() -> ConfigDict:
    """No published recipe at this size: the paper's masking noise of 0.25 with a ResNet-50."""
    return common.imagenet({"name": "autoencoder"}, _adamw(), epochs=100, batch_size=512)


def _adamw() -> dict:
    return {"name": "adamw", "lr": 1e-3, "lr_scaling": "none", "weight_decay": 0.05}


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
