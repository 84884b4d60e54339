"""Alignment and uniformity with MoCo's queue (2005.10242).

ssl-jax train --config=moco_align_uniform:digits --workdir=W
ssl-jax train --config=moco_align_uniform:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A queue shorter than the data set, and a momentum low enough for so short a run."""
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "moco_align_uniform",
        "view": view,
        "projector": (256, 128),
        "queue_size": 1024,
        "momentum": 0.98,
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=128)


def imagenet() -> ConfigDict:
    """MoCo v2's recipe, 200 epochs (section 5 of the paper; weights 3 and 1, t = 3). Not run."""
    optim = {"name": "sgd", "lr": 0.03, "weight_decay": 1e-4, "decay_rules": ((".*", 1.0),)}
    objective = {"name": "moco_align_uniform", "bn_groups": 8}
    config = common.imagenet(objective, optim, epochs=200, batch_size=256)
    config.backbone.zero_init_residual = False
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet)
