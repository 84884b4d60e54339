"""Jigsaw clustering (2104.00323).

ssl-jax train --config=jigsaw_clustering:digits --workdir=W
ssl-jax train --config=jigsaw_clustering:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=jigsaw_clustering:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment.chains import RECIPES as CHAINS


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def views(chain: str, size: int, piece: int, area: tuple[float, float]) -> dict[str, Any]:
    """Build a whole image, normalised as the chain does, and the pieces that the chain changes."""
    normalize = {"mean": CHAINS[chain].mean, "std": CHAINS[chain].std}
    return {
        "view": {"size": size, "area": (1.0, 1.0), "recipe": normalize},
        "piece": {"size": piece, "count": 4, "area": area, "recipe": chain},
    }


def digits() -> ConfigDict:
    """Pieces of nearly whole digits: a quarter of one says little."""
    objective = {"name": "jigsaw_clustering", "clusters": (256, 128)}
    objective |= views("digits", 16, 16, (0.6, 1.0))
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=64)


def cifar10() -> ConfigDict:
    """No published recipe: montages of 32 px, ImageNet's schedule."""
    objective = {"name": "jigsaw_clustering", "clusters": (512, 128)}
    objective |= views("moco_cifar", 32, 16, (0.2, 1.0))
    return common.cifar10(objective, OPTIM, epochs=200, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50, 200 epochs, batch 256, cosine without warmup (README of the release)."""
    return common.imagenet({"name": "jigsaw_clustering"}, OPTIM, epochs=200, batch_size=256)


OPTIM = {
    "name": "sgd",
    "lr": 0.03,
    "weight_decay": 1e-4,
    "decay_rules": ((".*", 1.0),),
}

RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
