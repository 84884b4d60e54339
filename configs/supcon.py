"""SupCon (2004.11362).

ssl-jax train --config=supcon:digits --workdir=W
ssl-jax train --config=supcon:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=supcon:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """The labels of all 1,437 images are used."""
    return common.two_views({"name": "supcon"}, steps=300)


def cifar10() -> ConfigDict:
    """ResNet-50, batch 1024, 1000 epochs, SGD 0.5 with a cosine, as the release's README trains it;
    the release's loss has a further factor of temperature / 0.07.
    """
    view = {"size": 32, "count": 2, "area": (0.2, 1.0), "recipe": "simclr_cifar"}
    optim = {
        "name": "sgd",
        "lr": 0.5,
        "lr_scaling": "none",
        "weight_decay": 1e-4,
        "warmup_epochs": 10.0,
        "decay_rules": ((".*", 1.0),),
    }
    config = common.cifar10({"name": "supcon", "view": view}, optim, epochs=1000, batch_size=1024)
    config.backbone.depth = 50
    return config


def imagenet() -> ConfigDict:
    """ResNet-50, batch 4096, with SimCLR's views, LARS and schedule for 350 epochs: ours, as the
    paper's AutoAugment and batch of 6144 were not at hand. Not run.
    """
    optim = common.SIMCLR_LARS
    objective = {"name": "supcon", "view": common.SIMCLR_VIEW}
    return common.imagenet(objective, optim, epochs=350, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
