"""Context prediction (1505.05192).

ssl-jax train --config=context_prediction:digits --workdir=W
ssl-jax train --config=context_prediction:moving_digits --workdir=W
ssl-jax train --config=context_prediction:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=context_prediction:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=context_prediction:imagenet_alexnet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """2 x 2 patches of 7 px, all pairs of neighbours: patches of a 3 x 3 grid would be very small.
    The distortions are as strong as jigsaw's, and patches are not standardised, since the whole
    images that are probed are not either.
    """
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits_upright", "strength": 1.2}
    objective = {
        "name": "context_prediction",
        "view": view,
        "rows": 2,
        "pairs": "all",
        "patch": 7,
        "gap": 1,
        "jitter": 1,
        "standardize": False,
        "embedding": 128,
        "hidden": (256,),
    }
    return common.digits(objective, {"name": "adamw", "lr": 5e-3}, steps=1500, batch_size=128)


def moving_digits() -> ConfigDict:
    """2 x 2 patches of 12 px, 4 px apart, of frames of 32 px with an object, the digit."""
    objective = {
        "name": "context_prediction",
        "view": {"size": 32, "area": (1.0, 1.0), "recipe": "normalize"},
        "rows": 2,
        "pairs": "all",
        "patch": 12,
        "gap": 4,
        "jitter": 2,
        "standardize": False,
        "embedding": 128,
        "hidden": (256,),
    }
    return common.moving_digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=128)


def cifar10() -> ConfigDict:
    """No published recipe: 3 x 3 patches of 8 px, 2 px apart; RotNet's schedule."""
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "patches"}
    objective = {
        "name": "context_prediction",
        "view": view,
        "patch": 8,
        "gap": 2,
        "jitter": 1,
        "embedding": 512,
        "hidden": (1024,),
    }
    return common.cifar10(objective, common.STEPS_CIFAR10, epochs=200, batch_size=128)


def imagenet() -> ConfigDict:
    """ResNet-50, 70 epochs, batch 512, as mmselfsup trains it, with the cells, the greying and the
    standardised patches of Kolesnikov et al. 2019 instead of the authors' CaffeNet recipe.
    """
    optim = common.STEPS_IMAGENET | {"milestones": (30, 50)}
    return common.imagenet({"name": "context_prediction"}, optim, epochs=70, batch_size=512)


def imagenet_alexnet() -> ConfigDict:
    """The paper's network with its fc6, fc7 and fc8, patches of 96 px, 48 px apart, and all
    neighbours of a grid; trained as `imagenet`, since the released rate of 1e-5 without momentum
    takes a month.
    """
    objective = {
        "name": "context_prediction",
        "view": {"size": 400, "area": (0.7, 1.0), "recipe": "none"},
        "patch": 96,
        "gap": 48,
        "jitter": 7,
        "pairs": "all",
        "colors": "drop",
        "embedding": 4096,
        "hidden": (4096, 4096),
    }
    optim = common.STEPS_IMAGENET | {"milestones": (30, 50)}
    return common.alexnet(objective, optim, epochs=70, batch_size=128)


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(moving_digits, cifar10, imagenet_alexnet)
)
