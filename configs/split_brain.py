"""Split-brain autoencoders (1611.09842).

ssl-jax train --config=split_brain:photos --workdir=W
ssl-jax train --config=split_brain:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=split_brain:cifar10_cpu --workdir=W --data=npz:train.npz \\
    --eval_data=npz:test.npz
ssl-jax train --config=split_brain:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=split_brain:imagenet_alexnet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def photos() -> ConfigDict:
    """Two halves of the small network on crops of full size (32 px), since at 16 px random features
    of colour are as good; the grid is twice as fine as their maps.
    """
    view = {"size": 32, "area": (0.3, 1.0), "recipe": "lab"}
    objective = {"name": "split_brain", "view": view, "grid": 8}
    return common.photos(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=64)


def cifar10() -> ConfigDict:
    """No published recipe: two ResNet-18 of half the width, targets of 8 x 8."""
    optim = {"name": "adamw", "lr": 1e-3, "lr_scaling": "none", "weight_decay": 0.05}
    return common.cifar10(_objective(), optim, epochs=200, batch_size=128)


def cifar10_cpu() -> ConfigDict:
    """Three epochs, five CPU minutes. Measured (JPEG copies, seed 0, the command above): nearest
    neighbours .382, untrained .328, raw pixels .309; 5 labels per class .227, .178 and .203.
    """
    optim = {"name": "adamw", "lr": 2e-3}
    return common.cifar10_cpu(_objective(), optim, steps=1200, batch_size=128)


def imagenet() -> ConfigDict:
    """The paper's crops and targets of 12 x 12 with two ResNet-50 of half the width in place of
    half AlexNets, and the rate of colorization's AlexNet (its training code is not public).
    """
    optim = {"name": "adamw", "lr": 3e-5, "lr_scaling": "none", "weight_decay": 1e-3}
    objective = {"name": "split_brain", "hidden": (2048, 2048)}
    return common.imagenet(objective, optim, epochs=25, batch_size=80)


def imagenet_alexnet() -> ConfigDict:
    """The paper's two halves of an AlexNet, with halves of fc6 and fc7 as 1x1 convolutions."""
    config = imagenet()
    optim, train = config.optim, config.train
    return common.alexnet(config.objective, optim, train.epochs, train.batch_size)


def _objective() -> dict[str, Any]:
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "lab"}
    return {"name": "split_brain", "view": view, "grid": 8}


RECIPES = common.Recipes(
    small=photos, paper=imagenet, others=(cifar10, cifar10_cpu, imagenet_alexnet)
)
