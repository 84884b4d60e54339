"""PMSN (2210.07277).

ssl-jax train --config=pmsn:digits --workdir=W
ssl-jax train --config=pmsn:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common, msn


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    config = msn.digits()
    config.objective.name = "pmsn"
    return config


def imagenet() -> ConfigDict:
    """MSN's recipe with lightly's prior: the authors have released neither code nor settings. The
    method is for data with a long tail, which ImageNet is not. Not run.
    """
    config = msn.imagenet()
    config.objective.name = "pmsn"
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet)
