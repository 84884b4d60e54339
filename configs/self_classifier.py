"""Self-Classifier (2103.10994).

ssl-jax train --config=self_classifier:digits --workdir=W
ssl-jax train --config=self_classifier:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=self_classifier:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits"}
    objective = {
        "name": "self_classifier",
        "views": (view,),
        "projector": (256, 128),
        "classes": (20,),
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=300, batch_size=256)


def cifar10() -> ConfigDict:
    """Our own, as the paper has no CIFAR: fewer classes, to suit the smaller batch."""
    view = {"size": 32, "count": 2, "area": (0.2, 1.0), "recipe": "simclr_cifar"}
    objective = {
        "name": "self_classifier",
        "views": (view,),
        "projector": (2048, 128),
        "classes": (10, 20, 50, 100),
    }
    optim = {"name": "sgd", "lr": 0.06, "weight_decay": 5e-4, "warmup_epochs": 10.0}
    return common.cifar10(objective, optim, epochs=400, batch_size=512)


def imagenet() -> ConfigDict:
    """ResNet-50, 2x224 + 6x96, 4 classifiers, batch 4096 (the release's 4092), 100 epochs."""
    objective = {
        "name": "self_classifier",
        "queue_size": 262144,
    }
    optim = {
        "name": "lars",
        "lars_variant": "apex",
        "lr": 0.3,
        "lr_start": 0.3 / 4.8,
        "lr_end": 1e-3,
        "weight_decay": 1e-6,
        "warmup_epochs": 10.0,
        "warmup_inclusive": True,
    }
    return common.imagenet(objective, optim, epochs=100, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
