"""SimSiam (2011.10566).

ssl-jax train --config=simsiam:digits --workdir=W
ssl-jax train --config=simsiam:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=simsiam:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common

EVERYTHING = ((".*", 1.0),)  # the released code decays biases and norms too


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Weak augmentation: on digits the methods without negatives collapse with SimCLR's."""
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {"name": "simsiam", "view": view, "projector": (128, 128), "predictor": 64}
    optim = {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4, "decay_rules": EVERYTHING}
    return common.digits(objective, optim, steps=600, batch_size=128)


def cifar10() -> ConfigDict:
    """Appendix D of the paper: a projector of two layers, 800 epochs, no blur, one learning rate
    for all layers.
    """
    view = {"size": 32, "count": 2, "area": (0.2, 1.0), "recipe": "moco_cifar"}
    objective = {
        "name": "simsiam",
        "view": view,
        "projector": (2048, 2048),
        "fix_predictor_lr": False,
    }
    optim = {"name": "sgd", "lr": 0.03, "weight_decay": 5e-4, "decay_rules": EVERYTHING}
    return common.cifar10(objective, optim, epochs=800, batch_size=512)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 512, 100 epochs, no warmup (section 3 of the paper; released command)."""
    optim = {"name": "sgd", "lr": 0.05, "weight_decay": 1e-4, "decay_rules": EVERYTHING}
    return common.imagenet({"name": "simsiam"}, optim, epochs=100, batch_size=512)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
