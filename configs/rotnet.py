"""RotNet (1803.07728).

ssl-jax train --config=rotnet:digits --workdir=W
ssl-jax train --config=rotnet:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=rotnet:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Little rotation in the augmentation, which would otherwise hide the answer."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits_upright", "strength": 0.7}
    objective = {"name": "rotnet", "view": view}
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=128)


def cifar10() -> ConfigDict:
    """The release's schedule (config/CIFAR10_RotNet_NIN4blocks.py) with a ResNet-18."""
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "rotnet"}
    objective = {"name": "rotnet", "view": view}
    return common.cifar10(objective, common.STEPS_CIFAR10, epochs=200, batch_size=128)


def imagenet() -> ConfigDict:
    """ResNet-50 for 70 epochs, as mmselfsup trains it; the paper's AlexNet is no longer in
    use.
    """
    objective = {"name": "rotnet"}
    optim = common.STEPS_IMAGENET | {"milestones": (30, 50)}
    return common.imagenet(objective, optim, epochs=70, batch_size=512)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
