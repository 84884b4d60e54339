"""PIRL (1912.01991).

ssl-jax train --config=pirl:digits --workdir=W
ssl-jax train --config=pirl:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=pirl:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=pirl:imagenet_mlp --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=pirl:imagenet_pycontrast --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """2 x 2 patches of 7 px; the softmax over all images, few enough to need no estimate."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits"}
    objective = {
        "name": "pirl",
        "view": view,
        "puzzle": view,
        "patch_recipe": "none",
        "rows": 2,
        "tile": 7,
        "projector": (128, 64),
        "negatives": 0,
        "temperature": 0.1,
    }
    optim = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4}
    return common.digits(objective, optim, steps=600, batch_size=256)


def cifar10() -> ConfigDict:
    """No published recipe: 2 x 2 patches of 12 px, InstDisc's schedule."""
    objective = {
        "name": "pirl",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "pirl"},
        "puzzle": {"size": 32, "area": (0.6, 1.0), "recipe": "none"},
        "rows": 2,
        "tile": 12,
        "negatives": 4096,
        "temperature": 0.1,
    }
    optim = common.INSTDISC_SGD | {"lr_scaling": "none", "weight_decay": 5e-4}
    return common.cifar10(objective, optim, epochs=200, batch_size=128)


def imagenet() -> ConfigDict:
    """vissl, configs/config/pretrain/pirl: batch 1024, 800 epochs."""
    return _imagenet({})


def imagenet_mlp() -> ConfigDict:
    """vissl's variant with two-layer heads, SimCLR's distortions and the softmax."""
    return _imagenet(
        {
            "view": {"size": 224, "area": (0.08, 1.0), "recipe": "pirl_blur"},
            "patch_recipe": "pirl_blur",
            "projector": (2048, 128),
            "criterion": "softmax",
            "temperature": 0.1,
        }
    )


def imagenet_pycontrast() -> ConfigDict:
    """HobbitLong/PyContrast: the softmax with 65,536 negatives, the same for both terms."""
    options = {"criterion": "softmax", "negatives": 65536, "shared_negatives": True}
    return _imagenet(options)


def _imagenet(options: dict[str, Any]) -> ConfigDict:
    objective = {"name": "pirl"} | options
    optim = {"name": "sgd", "lr": 0.03, "weight_decay": 1e-4, "lr_end": 1e-3}
    return common.imagenet(objective, optim, epochs=800, batch_size=1024)


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(cifar10, imagenet_mlp, imagenet_pycontrast)
)
