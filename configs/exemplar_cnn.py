"""Exemplar-CNN (1406.6909).

ssl-jax train --config=exemplar_cnn:digits --workdir=W
ssl-jax train --config=exemplar_cnn:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=exemplar_cnn:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common
from ssl_jax.augment.chains import RECIPES as CHAINS


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Seeds of 16 px within digits of 20 px, with new transformations at each step."""
    normalize = {"mean": CHAINS["digits"].mean, "std": CHAINS["digits"].std}
    objective = {
        "name": "exemplar_cnn",
        "view": {"size": 20, "area": (1.0, 1.0), "recipe": normalize},
        "patch": 16,
        "seed_scale": 1.25,
        "transforms": 0,
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=600, batch_size=256)


def cifar10() -> ConfigDict:
    """No published recipe: a class per image, RotNet's schedule."""
    objective = {
        "name": "exemplar_cnn",
        "view": {"size": 32, "area": (1.0, 1.0), "recipe": "normalize"},
        "patch": 24,
        "seed_scale": 4 / 3,
    }
    return common.cifar10(objective, common.STEPS_CIFAR10, epochs=200, batch_size=128)


def imagenet() -> ConfigDict:
    """Too many seeds for a softmax: triplets, 64 images x 8 copies, 35 epochs, as Kolesnikov et al.
    2019 train them, with the seeds and transformations of the paper instead of Inception crops.
    """
    objective = {
        "name": "exemplar_cnn",
        "view": {"size": 256, "area": (1.0, 1.0), "recipe": "normalize"},
        "patch": 128,
        "copies": 8,
        "form": "semi_hard",
    }
    optim = common.STEPS_IMAGENET | {"milestones": (15, 25)}
    return common.imagenet(objective, optim, epochs=35, batch_size=64)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
