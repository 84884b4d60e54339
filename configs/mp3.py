"""MP3 (2207.07611).

ssl-jax train --config=mp3:digits --workdir=W
ssl-jax train --config=mp3:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=mp3:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

NO_POSITIONS: dict[str, Any] = {"position": "none", "cls_token": False, "pool": "avg"}
ADAMW: dict[str, Any] = {"name": "adamw", "lr": 2.5e-4, "weight_decay": 0.05}


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Sixteen patches, half of which are visible."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits_upright", "strength": 0.5}
    objective = {"name": "mp3", "view": view, "mask_ratio": 0.5}
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05}
    config = common.digits(objective, optim, steps=1000, batch_size=64)
    config.backbone = common.TINY_VIT | {"depth": 2} | NO_POSITIONS
    return config


def cifar10() -> ConfigDict:
    """ViT-S/4, 2000 epochs as for CIFAR-100 in the paper; its other settings are not published."""
    objective = {"name": "mp3", "view": {"size": 32, "area": (0.08, 1.0), "recipe": "mae"}}
    optim = ADAMW | {"warmup_epochs": 20.0}
    config = common.cifar10(objective, optim, epochs=2000, batch_size=512)
    config.backbone = _vit("small", 4, 32)
    return config


def imagenet() -> ConfigDict:
    """ViT-B/16, 100 epochs, batch 1024, with DeiT's learning rate and decay."""
    optim = ADAMW | {"warmup_epochs": 5.0}
    config = common.imagenet({"name": "mp3"}, optim, epochs=100, batch_size=1024)
    config.backbone = _vit("base", 16, 224)
    return config


def _vit(size: str, patch: int, image_size: int) -> dict[str, Any]:
    sizes = {"name": "vit", "size": size, "patch": patch, "image_size": image_size}
    return sizes | NO_POSITIONS | {"dtype": "bfloat16"}


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
