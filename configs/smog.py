"""SMoG (2207.06167).

ssl-jax train --config=smog:digits --workdir=W
ssl-jax train --config=smog:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """About three groups per class, and a queue shorter than the data set."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "smog",
        "views": (view, view),
        "projector": (256, 64),
        "predictor": (256, 64),
        "clusters": 32,
        "momentum": 0.95,
        "group_momentum": 0.95,
        "queue_size": 1024,
        "reset_every": 100,
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50 for 100 epochs at batch 4096, with the optimizer of BYOL: ours, as the paper's own
    settings were not at hand. Not run.
    """
    optim = {"name": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10.0}
    return common.imagenet({"name": "smog"}, optim, epochs=100, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=imagenet)
