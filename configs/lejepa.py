"""LeJEPA (2511.08544).

ssl-jax train --config=lejepa:digits --workdir=W
ssl-jax train --config=lejepa:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "lejepa",
        "views": (view,),
        "projector": (256, 256, 32),
        "directions": 128,
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05}
    config = common.digits(objective, optim, steps=500, batch_size=128)
    config.backbone = common.TINY_VIT_MEAN
    return config


def imagenet() -> ConfigDict:
    """ViT-L/14, 100 epochs, 2x224 + 6x98 (README of the release); batch, warmup and the head's
    width, which it does not give, are ours. Not run.
    """
    optim = {
        "name": "adamw",
        "lr": 5e-4,
        "lr_scaling": "none",
        "lr_end": 1e-3,
        "weight_decay": 0.05,
        "warmup_epochs": 10.0,
    }
    objective = {"name": "lejepa", "projector": (2048, 2048, 64)}
    config = common.imagenet(objective, optim, epochs=100, batch_size=512)
    config.backbone = {
        "name": "vit",
        "size": "large",
        "patch": 14,
        "remat": "wide",
        "dtype": "bfloat16",
    }
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet)
