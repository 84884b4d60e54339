"""SeLa (1911.05371).

ssl-jax train --config=sela:digits --workdir=W
ssl-jax train --config=sela:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=sela:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    objective = {
        "name": "sela",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits"},
        "clusters": 50,
        "heads": 4,
        "labellings": 30,
        "tolerance": 0.1,
    }
    optim = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4}
    return common.digits(objective, optim, steps=600, batch_size=256)


def cifar10() -> ConfigDict:
    """The released cifar.py: ten heads of 128 labels, lambda 10, 400 evenly spaced labellings (each
    of all heads; of one head in the release).
    """
    objective = {
        "name": "sela",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "instdisc"},
        "clusters": 128,
        "heads": 10,
        "power": 10.0,
        "tolerance": 0.01,
        "labellings": 400,
        "spacing": 1.0,
    }
    optim = _sgd(0.03, 5e-4, (240.0, 320.0)) | {"lr_scaling": "none"}
    return common.cifar10(objective, optim, epochs=400, batch_size=128)


def imagenet() -> ConfigDict:
    """ResNet-50, ten heads of 3000 labels, batch 256, 400 epochs (main.py)."""
    objective = {"name": "sela"}
    optim = _sgd(0.05, 1e-5, (150.0, 300.0, 350.0))
    return common.imagenet(objective, optim, epochs=400, batch_size=256)


def _sgd(lr: float, weight_decay: float, milestones: tuple[float, ...]) -> dict:
    return {
        "name": "sgd",
        "lr": lr,
        "weight_decay": weight_decay,
        "schedule": "step",
        "milestones": milestones,
        "decay_rules": ((".*", 1.0),),
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
