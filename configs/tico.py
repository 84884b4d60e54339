"""TiCo (2206.10698).

ssl-jax train --config=tico:digits --workdir=W
ssl-jax train --config=tico:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.8}
    objective = {
        "name": "tico",
        "views": (view, view),
        "projector": (256, 128),
        "weight": 8.0,
        "momentum": 0.95,
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50 for 100 epochs at batch 4096, with LARS and the views of BYOL, as in lightly's
    benchmarks/imagenet/resnet50/tico.py, which takes beta 0.9, rho 20 and momentum 0.99. Not run.
    """
    objective = {"name": "tico"}
    optim = {"name": "lars", "lr": 0.2, "weight_decay": 1.5e-6, "warmup_epochs": 10.0}
    return common.imagenet(objective, optim, epochs=100, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=imagenet)
