"""Learning to count (1708.06734).

ssl-jax train --config=counting:digits --workdir=W
ssl-jax train --config=counting:moving_digits --workdir=W
ssl-jax train --config=counting:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=counting:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=counting:imagenet_alexnet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Quarters of 8 px. Digits hold little to count: `moving_digits` learns more."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits_upright"}
    objective = {"name": "counting", "view": view, "counts": 64, "hidden": (128,)}
    return common.digits(objective, {"name": "adamw", "lr": 3e-3}, steps=1200, batch_size=64)


def moving_digits() -> ConfigDict:
    """Frames of 32 px, in quarters of 16: a digit before a photograph."""
    view = {"size": 32, "area": (0.4, 1.0), "recipe": "normalize"}
    objective = {"name": "counting", "view": view, "counts": 64, "hidden": (128,)}
    optim = {"name": "adamw", "lr": 3e-3}
    return common.moving_digits(objective, optim, steps=1000, batch_size=128)


def cifar10() -> ConfigDict:
    """No published recipe: quarters of 16 px."""
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "patches"}
    objective = {"name": "counting", "view": view, "counts": 256, "hidden": (512,)}
    return common.cifar10(objective, _adamw(), epochs=200, batch_size=128)


def imagenet() -> ConfigDict:
    """The paper's sizes, margin and rate of 1e-4; a ResNet-50 in place of its AlexNet."""
    return common.imagenet({"name": "counting"}, _adamw(), epochs=70, batch_size=128)


def imagenet_alexnet() -> ConfigDict:
    """The paper's network, without the 6 x 6 places that its fc6 tells apart."""
    return common.alexnet({"name": "counting"}, _adamw(), epochs=70, batch_size=128)


def _adamw() -> dict:
    return {"name": "adamw", "lr": 1e-4, "lr_scaling": "none", "weight_decay": 5e-4}


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(moving_digits, cifar10, imagenet_alexnet)
)
