"""VICReg (2105.04906).

ssl-jax train --config=vicreg:digits --workdir=W
ssl-jax train --config=vicreg:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=vicreg:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {"name": "vicreg", "views": (view, view), "projector": (256, 256)}
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=128)


def cifar10() -> ConfigDict:
    """solo-learn's CIFAR recipe, 1000 epochs, with its asymmetric views instead of two views that
    are solarized with probability 0.1.
    """
    view = {"size": 32, "area": (0.2, 1.0)}
    objective = {
        "name": "vicreg",
        "views": (view | {"recipe": "byol_cifar_1"}, view | {"recipe": "byol_cifar_2"}),
        "projector": (2048, 2048, 2048),
    }
    optim = {
        "name": "lars",
        "lr": 0.3,
        "weight_decay": 1e-4,
        "trust_coefficient": 0.02,
        "warmup_epochs": 10.0,
    }
    return common.cifar10(objective, optim, epochs=1000, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 2048, 1000 epochs (README of facebookresearch/vicreg)."""
    objective = {"name": "vicreg"}
    optim = {
        "name": "lars",
        "lr": 0.2,
        "lr_end": 0.001,
        "weight_decay": 1e-6,
        "warmup_epochs": 10.0,
    }
    return common.imagenet(objective, optim, epochs=1000, batch_size=2048)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
