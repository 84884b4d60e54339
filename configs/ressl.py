"""ReSSL (2107.09282).

ssl-jax train --config=ressl:digits --workdir=W
ssl-jax train --config=ressl:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A queue shorter than the data set, and a momentum low enough for so short a run."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits"}
    objective = {
        "name": "ressl",
        "views": (view | {"strength": 0.8}, view | {"strength": 0.3}),
        "projector": (256, 128),
        "queue_size": 1024,
        "momentum": 0.98,
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=128)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 256, 200 epochs, SGD 0.05 per 256 with 5 epochs of warmup, 131,072 keys
    (section 4 of the paper, from memory). Not run.
    """
    strong = {"size": 224, "area": (0.2, 1.0), "recipe": "simclr"}
    objective = {"name": "ressl", "views": (strong, strong | {"recipe": "mae"})}
    optim = {"name": "sgd", "lr": 0.05, "weight_decay": 1e-4, "warmup_epochs": 5.0}
    return common.imagenet(objective, optim, epochs=200, batch_size=256)


RECIPES = common.Recipes(small=digits, paper=imagenet)
