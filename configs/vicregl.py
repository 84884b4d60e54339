"""VICRegL (2210.01571).

ssl-jax train --config=vicregl:digits --workdir=W
ssl-jax train --config=vicregl:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=vicregl:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Two views of the whole digit and a part of it, with maps of 16 and of 4 places."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    part = view | {"size": 8, "area": (0.3, 0.6)}
    objective = {
        "name": "vicregl",
        "views": (view, view, part),
        "projector": (256, 256),
        "map_projector": (128, 128),
        "matches": (8, 2),
    }
    optim = {"name": "adamw", "lr": 2e-3}
    config = common.digits(objective, optim, steps=200, batch_size=128)
    config.backbone.stem = "cifar"
    return config


def cifar10() -> ConfigDict:
    """VICReg's recipe for CIFAR-10; there is no published one."""
    view = {"size": 32, "area": (0.2, 1.0)}
    objective = {
        "name": "vicregl",
        "views": (view | {"recipe": "byol_cifar_1"}, view | {"recipe": "byol_cifar_2"}),
        "projector": (2048, 2048, 2048),
        "matches": (8, 2),
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
    """ResNet-50, two views of 224 px, batch 2048, 300 epochs (README of the release)."""
    optim = {
        "name": "lars",
        "lr": 0.2,
        "lr_end": 0.001,
        "weight_decay": 1e-6,
        "warmup_epochs": 10.0,
    }
    return common.imagenet({"name": "vicregl"}, optim, epochs=300, batch_size=2048)


def imagenet_multicrop() -> ConfigDict:
    """Six parts of 96 px are added, sized as in the release's default views, which it uses with a
    ConvNeXt; here a ResNet-50.
    """
    config = imagenet()
    large = {"size": 224, "area": (0.4, 1.0), "interpolation": "bicubic"}
    small = {"size": 96, "count": 3, "area": (0.08, 0.4), "interpolation": "bicubic"}
    config.objective.views = (
        large | {"recipe": "dino_1"},
        large | {"recipe": "dino_2"},
        small | {"recipe": "dino_1"},
        small | {"recipe": "dino_2"},
    )
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, imagenet_multicrop))
