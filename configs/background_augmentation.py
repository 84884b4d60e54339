"""Background augmentation (2103.12719): MoCo v2 with BG_Swaps.

ssl-jax train --config=background_augmentation:digits --workdir=W
ssl-jax prepare --data=folder:/imagenet/train --masks=/masks
ssl-jax train --config=background_augmentation:imagenet --workdir=W --data=folder:/imagenet/train \
    --config.data.masks=/masks

BG_RM and BG_Random are recipes of the methods that they are applied to: `imagenet_backgrounds` of
moco_v2, byol and swav.
"""

from ml_collections import ConfigDict

from configs import common, moco_v2


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Digits before photographs: without the swaps the queue's keys can be told apart by those."""
    config = moco_v2.digits()
    config.objective.name = "background_augmentation"
    chain = common.with_background("digits", probability=1.0)
    config.objective.view = dict(config.objective.view) | {"recipe": chain}
    config.data.train = "digits:photos"
    return config


def imagenet() -> ConfigDict:
    """MoCo v2's recipe. No code of the paper is public; the probability of 0.2 is unverified."""
    config = moco_v2.imagenet()
    config.objective.name = "background_augmentation"
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet)
