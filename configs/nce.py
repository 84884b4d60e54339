"""NCE (Gutmann and Hyvarinen 2010) with the memory of InstDisc (1805.01978).

ssl-jax train --config=nce:digits --workdir=W
ssl-jax train --config=nce:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A trained normaliser, with a rate at which it follows the scores in so short a run."""
    objective = {
        "name": "nce",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits"},
        "projector": (128, 64),
        "negatives": 512,
        "temperature": 0.1,
    }
    optim = {
        "name": "adamw",
        "lr": 2e-3,
        "weight_decay": 1e-4,
        "lr_rules": (("^normaliser$", 30.0), (".*", 1.0)),
    }
    return common.digits(objective, optim, steps=800, batch_size=256)


def imagenet() -> ConfigDict:
    """InstDisc's recipe (the released main.py) with a trained normaliser: ours. Not run."""
    objective = {"name": "nce"}
    return common.imagenet(objective, common.INSTDISC_SGD, epochs=200, batch_size=256)


RECIPES = common.Recipes(small=digits, paper=imagenet)
