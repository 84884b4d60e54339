"""BYOL (2006.07733).

ssl-jax train --config=byol:digits --workdir=W
ssl-jax train --config=byol:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=byol:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Weak augmentation: on digits the methods without negatives collapse with SimCLR's."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {"name": "byol", "views": (view, view), "projector": (256, 128), "momentum": 0.95}
    optim = {"name": "sgd", "lr": 0.2, "weight_decay": 5e-4}
    return common.digits(objective, optim, steps=600, batch_size=128)


def cifar10() -> ConfigDict:
    """solo-learn's CIFAR recipe: asymmetric views without blur, 1000 epochs."""
    view = {"size": 32, "area": (0.08, 1.0)}
    views = (view | {"recipe": "byol_cifar_1"}, view | {"recipe": "byol_cifar_2"})
    objective = {"name": "byol", "views": views, "projector": (4096, 256), "momentum": 0.99}
    optim = {
        "name": "lars",
        "lr": 1.0,
        "weight_decay": 1e-5,
        "trust_coefficient": 0.02,
        "warmup_epochs": 10.0,
    }
    return common.cifar10(objective, optim, epochs=1000, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 4096, 1000 epochs (appendix C of the paper)."""
    objective = {"name": "byol", "momentum": 0.996}
    optim = {"name": "lars", "lr": 0.2, "weight_decay": 1.5e-6, "warmup_epochs": 10.0}
    return common.imagenet(objective, optim, epochs=1000, batch_size=4096)


def imagenet_backgrounds() -> ConfigDict:
    """BG_Random (2103.12719, see background_augmentation). Set --config.data.masks."""
    config = imagenet()
    view = {"size": 224, "area": (0.08, 1.0), "interpolation": "bicubic", "crop": "one_draw"}
    config.objective.views = tuple(
        view | {"recipe": common.with_background(chain)} for chain in ("byol_1", "byol_2")
    )
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, imagenet_backgrounds))
