"""MoCo v2 (2003.04297).

ssl-jax train --config=moco_v2:digits --workdir=W
ssl-jax train --config=moco_v2:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=moco_v2:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common

EVERYTHING = ((".*", 1.0),)  # the released code decays biases and norms too


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A queue shorter than the data set, and a momentum low enough for so short a run."""
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "moco_v2",
        "view": view,
        "projector": (256, 128),
        "queue_size": 1024,
        "momentum": 0.98,
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=128)


def cifar10() -> ConfigDict:
    """The authors' CIFAR-10 demo for v1 with v2's head, 200 epochs."""
    view = {"size": 32, "count": 2, "area": (0.08, 1.0), "recipe": "moco_cifar"}
    objective = {
        "name": "moco_v2",
        "view": view,
        "projector": (512, 128),
        "temperature": 0.1,
        "queue_size": 4096,
        "momentum": 0.99,
        "bn_groups": 8,
    }
    optim = {"name": "sgd", "lr": 0.03, "weight_decay": 5e-4, "decay_rules": EVERYTHING}
    return common.cifar10(objective, optim, epochs=200, batch_size=512)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 256, 800 epochs (table 2 of the paper); batch norm as on 8 GPUs."""
    optim = {"name": "sgd", "lr": 0.03, "weight_decay": 1e-4, "decay_rules": EVERYTHING}
    objective = {"name": "moco_v2", "bn_groups": 8}
    config = common.imagenet(objective, optim, epochs=800, batch_size=256)
    config.backbone.zero_init_residual = False
    return config


def imagenet_backgrounds() -> ConfigDict:
    """BG_RM (2103.12719, see background_augmentation). Set --config.data.masks."""
    config = imagenet()
    config.objective.view = {"recipe": common.with_background("moco_v2", fill="gray")}
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, imagenet_backgrounds))
