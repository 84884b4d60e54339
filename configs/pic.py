"""PIC (2006.14618).

ssl-jax train --config=pic:digits --workdir=W
ssl-jax train --config=pic:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=pic:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=pic:imagenet_recent --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """The class vectors have a higher learning rate and no decay: each is right in one of five
    steps only.
    """
    objective = {
        "name": "pic",
        "views": [{"size": 16, "area": (1.0, 1.0), "recipe": "digits"}],
        "projector": (128, 64),
        "window": 512,
        "stride": 256,
    }
    optim = {
        "name": "adamw",
        "lr": 2e-3,
        "weight_decay": 1e-4,
        "lr_rules": (("^memory$", 10.0), (".*", 1.0)),
        "decay_rules": (("^memory$", 0.0), (".*", 1.0)),
    }
    return common.digits(objective, optim, steps=800, batch_size=256)


def cifar10() -> ConfigDict:
    """No published recipe: one crop, the paper's shares of window and stride."""
    objective = {
        "name": "pic",
        "views": [{"size": 32, "area": (0.2, 1.0), "recipe": "simclr_cifar"}],
        "window": 5120,
        "stride": 640,
    }
    optim = _sgd() | {"weight_decay": 5e-4, "warmup_epochs": 5.0}
    return common.cifar10(objective, optim, epochs=200, batch_size=128)


def imagenet() -> ConfigDict:
    """The released PIC.sh: one crop of 160 px and three of 96, 200 epochs."""
    return _imagenet({})


def imagenet_recent() -> ConfigDict:
    """The paper's recent negatives: the classes of the last 65,536 images."""
    return _imagenet({"recent": 65536})


def _imagenet(options: dict[str, Any]) -> ConfigDict:
    objective = {"name": "pic"} | options
    return common.imagenet(objective, _sgd(), epochs=200, batch_size=256)


def _sgd() -> dict[str, Any]:
    return {
        "name": "sgd",
        "lr": 0.03,
        "weight_decay": 1e-4,
        "warmup_epochs": 5.0,
        "lr_start": 0.01,
        "lr_end": 3.3e-5,
        "decay_rules": ((".*", 1.0),),
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, imagenet_recent))
