"""NNCLR (2104.14548).

ssl-jax train --config=nnclr:digits --workdir=W
ssl-jax train --config=nnclr:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A queue shorter than the data set."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.8}
    objective = {
        "name": "nnclr",
        "views": (view, view),
        "projector": (256, 128),
        "predictor": (256, 128),
        "temperature": 0.2,
        "queue_size": 1024,
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 4096, 1000 epochs, LARS 0.3 per 256 (section 4.1 of the paper). Not run."""
    objective = {"name": "nnclr"}
    optim = {"name": "lars", "lr": 0.3, "weight_decay": 1e-6, "warmup_epochs": 10.0}
    return common.imagenet(objective, optim, epochs=1000, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=imagenet)
