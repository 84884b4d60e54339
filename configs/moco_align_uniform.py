"""Alignment and uniformity with MoCo's queue (2005.10242).

ssl-jax train --config=moco_align_uniform:digits --workdir=W
ssl-jax train --config=moco_align_uniform:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common, moco_v2


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    return _renamed(moco_v2.digits())


def imagenet() -> ConfigDict:
    """MoCo v2's recipe, 200 epochs (section 5 of the paper; weights 3 and 1, t = 3). Not run."""
    config = _renamed(moco_v2.imagenet())
    config.train.epochs = 200
    return config


def _renamed(config: ConfigDict) -> ConfigDict:
    config.objective.name = "moco_align_uniform"
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet)
