"""InstDisc (1805.01978).

ssl-jax train --config=instdisc:digits --workdir=W
ssl-jax train --config=instdisc:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=instdisc:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """The softmax over all 1,437 images, few enough to need no estimate."""
    objective = {
        "name": "instdisc",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits"},
        "projector": (128, 64),
        "negatives": 0,
        "temperature": 0.1,
    }
    optim = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4}
    return common.digits(objective, optim, steps=800, batch_size=256)


def cifar10() -> ConfigDict:
    """The released cifar.py: full softmax, no flip, learning rate divided at epochs 120 and 160."""
    objective = {
        "name": "instdisc",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "instdisc_cifar"},
        "negatives": 0,
        "temperature": 0.1,
    }
    optim = common.INSTDISC_SGD | {
        "lr_scaling": "none",
        "weight_decay": 5e-4,
        "decay_rules": ((".*", 1.0),),
    }
    return common.cifar10(objective, optim, epochs=200, batch_size=128)


def imagenet() -> ConfigDict:
    """The released main.py: 4096 negatives, batch 256, 200 epochs."""
    objective = {"name": "instdisc"}
    optim = common.INSTDISC_SGD | {"decay_rules": ((".*", 1.0),)}
    return common.imagenet(objective, optim, epochs=200, batch_size=256)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
