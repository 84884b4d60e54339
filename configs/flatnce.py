"""FlatNCE (2107.01152).

ssl-jax train --config=flatnce:digits --workdir=W
ssl-jax train --config=flatnce:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {
        "size": 16,
        "count": 2,
        "area": (1.0, 1.0),
        "recipe": "digits",
        "strength": 0.8,
        "interpolation": "bilinear",
    }
    objective = {"name": "flatnce", "view": view, "projector": (256, 128), "temperature": 0.2}
    return common.digits(objective, {"name": "adamw", "lr": 0.002}, steps=500, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 512, 100 epochs, LARS 0.3 per 256, as in the released code."""
    objective = {"name": "flatnce"}
    optim = {
        "name": "lars",
        "lars_variant": "simclr",
        "lr": 0.3,
        "weight_decay": 1e-6,
        "warmup_epochs": 10.0,
    }
    return common.imagenet(objective, optim, epochs=100, batch_size=512)


RECIPES = common.Recipes(small=digits, paper=imagenet)
