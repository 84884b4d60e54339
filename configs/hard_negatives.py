"""Hard negatives (2010.04592).

ssl-jax train --config=hard_negatives:digits --workdir=W
ssl-jax train --config=hard_negatives:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=hard_negatives:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common, debiased


def get_config(recipe: str = "cifar10") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    return _renamed(debiased.digits())


def cifar10() -> ConfigDict:
    """The recipe of `debiased` for 400 epochs, as in the released code."""
    config = _renamed(debiased.cifar10())
    config.train.epochs = 400
    return config


def imagenet() -> ConfigDict:
    """The recipe of `debiased`: ours. Not run."""
    return _renamed(debiased.imagenet())


def _renamed(config: ConfigDict) -> ConfigDict:
    config.objective.name = "hard_negatives"
    return config


RECIPES = common.Recipes(small=digits, paper=cifar10, others=(imagenet,))
