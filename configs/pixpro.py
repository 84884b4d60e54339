"""PixPro (2011.10043).

ssl-jax train --config=pixpro:digits --workdir=W
ssl-jax train --config=pixpro:flickr --workdir=W --data=parquet:flickr8k_mini-train.parquet
ssl-jax train --config=pixpro:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """With the instance loss: the maps are 2 x 2, and the measures are those of whole images."""
    view = {"size": 16, "area": (0.3, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "pixpro",
        "views": (view, view),
        "projector": (256, 128),
        "transform": (128,),
        "momentum": 0.95,
        "instance": "contrast",
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=300, batch_size=128)


def flickr() -> ConfigDict:
    """Photographs of scenes at 48 px, a small ResNet and the instance loss: minutes on a laptop."""
    view = {"size": 48, "area": (0.2, 1.0), "recipe": "moco_v2"}
    objective = {
        "name": "pixpro",
        "views": (view, view),
        "projector": (256, 128),
        "transform": (128,),
        "instance": "contrast",
    }
    optim = {"name": "adamw", "lr": 2e-3}
    config = common.digits(objective, optim, steps=150, batch_size=32)
    config.data.train = ""
    return config


def imagenet() -> ConfigDict:
    """ResNet-50, batch 1024, 400 epochs."""
    return common.imagenet({"name": "pixpro"}, common.PIXEL_LARS, epochs=400, batch_size=1024)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(flickr,))
