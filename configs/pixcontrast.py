"""PixContrast (2011.10043).

ssl-jax train --config=pixcontrast:digits --workdir=W
ssl-jax train --config=pixcontrast:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """With the instance loss: the maps are 2 x 2, and the measures are those of whole images."""
    view = {"size": 16, "area": (0.3, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "pixcontrast",
        "views": (view, view),
        "projector": (256, 128),
        "momentum": 0.95,
        "instance": "contrast",
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=300, batch_size=128)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 1024, 100 epochs."""
    return common.imagenet({"name": "pixcontrast"}, common.PIXEL_LARS, epochs=100, batch_size=1024)


RECIPES = common.Recipes(small=digits, paper=imagenet)
