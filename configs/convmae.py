"""ConvMAE (2205.03892).

ssl-jax train --config=convmae:digits --workdir=W
ssl-jax train --config=convmae:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=convmae:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

ADAMW: dict[str, Any] = {
    "name": "adamw",
    "lr": 1.5e-4,
    "b2": 0.95,
    "weight_decay": 0.05,
    "warmup_epochs": 40.0,
}


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Maps of 8 x 8 and 4 x 4 places, then the transformer on patches of 4 pixels; raw pixels as
    the target (see `mae:digits`).
    """
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "convmae",
        "view": view,
        "mask_ratio": 0.6,
        "norm_pixels": False,
        "decoder_dim": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
    }
    optim = {"name": "adamw", "lr": 3e-3, "b2": 0.95, "weight_decay": 0.05}
    config = common.digits(objective, optim, steps=800, batch_size=64)
    config.backbone = {
        "name": "convvit",
        "size": None,
        "image_size": 16,
        "dims": (16, 32, 64),
        "depths": (1, 1, 2),
        "heads": 4,
        "strides": (2, 2, 1),
    }
    return config


def cifar10() -> ConfigDict:
    """No published recipe: MAE's, with patches of 4 pixels and maps of 32 x 32 and 16 x 16."""
    objective = {
        "name": "convmae",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "mae"},
        "decoder_dim": 192,
        "decoder_depth": 4,
        "decoder_heads": 3,
    }
    config = common.cifar10(objective, ADAMW, epochs=800, batch_size=512)
    config.backbone = {
        "name": "convvit",
        "size": None,
        "image_size": 32,
        "dims": (64, 128, 192),
        "depths": (2, 2, 8),
        "heads": 3,
        "strides": (1, 2, 2),
        "dtype": "bfloat16",
    }
    return config


def imagenet() -> ConfigDict:
    """ConvMAE-B, batch 3072, 1600 epochs."""
    config = common.imagenet({"name": "convmae"}, ADAMW, epochs=1600, batch_size=3072)
    config.backbone = {"name": "convvit", "size": "base", "remat": "wide", "dtype": "bfloat16"}
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
