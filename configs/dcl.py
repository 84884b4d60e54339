"""DCL (2110.06848).

ssl-jax train --config=dcl:digits --workdir=W
ssl-jax train --config=dcl:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=dcl:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "cifar10") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    return common.two_views({"name": "dcl"})


def cifar10() -> ConfigDict:
    """SimCLR's CIFAR recipe with a small batch and 200 epochs: the paper's own training settings
    were not at hand.
    """
    view = {
        "size": 32,
        "count": 2,
        "area": (0.08, 1.0),
        "recipe": "simclr_cifar",
        "interpolation": "bilinear",
    }
    objective = {"name": "dcl", "view": view, "projector": (512, 128), "sigma": 0.5}
    optim = {"name": "sgd", "lr": 0.06, "weight_decay": 5e-4}
    return common.cifar10(objective, optim, epochs=200, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 256, 200 epochs, with SimCLR's views and LARS; the paper's point is that a
    batch of 256 is enough. Its learning rate was not at hand: SimCLR's, 0.3 per 256. Not run.
    """
    objective = {"name": "dcl"}
    optim = common.SIMCLR_LARS
    return common.imagenet(objective, optim, epochs=200, batch_size=256)


RECIPES = common.Recipes(small=digits, paper=cifar10, others=(imagenet,))
