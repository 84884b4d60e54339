"""FlatNCE (2107.01152).

ssl-jax train --config=flatnce:digits --workdir=W
ssl-jax train --config=flatnce:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    return common.two_views({"name": "flatnce"})


def imagenet() -> ConfigDict:
    """ResNet-50, batch 512, 100 epochs, LARS 0.3 per 256, as in the released code."""
    objective = {"name": "flatnce"}
    optim = common.SIMCLR_LARS | {"weight_decay": 1e-6}
    return common.imagenet(objective, optim, epochs=100, batch_size=512)


RECIPES = common.Recipes(small=digits, paper=imagenet)
