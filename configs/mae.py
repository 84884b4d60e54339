"""MAE (2111.06377).

ssl-jax train --config=mae:digits --workdir=W
ssl-jax train --config=mae:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=mae:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Raw pixels as the target: enlarged digits have flat patches, which normalisation turns into
    noise.
    """
    view = {
        "size": 16,
        "area": (1.0, 1.0),
        "recipe": "digits",
        "strength": 0.5,
        "interpolation": "bilinear",
    }
    objective = {
        "name": "mae",
        "view": view,
        "mask_ratio": 0.6,
        "norm_pixels": False,
        "decoder_dim": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
    }
    optim = {"name": "adamw", "lr": 3e-3, "b2": 0.95, "weight_decay": 0.05}
    config = common.digits(objective, optim, steps=1000, batch_size=128)
    config.backbone = common.TINY_VIT | {"depth": 4, "position": "sincos"}
    return config


def cifar10() -> ConfigDict:
    view = {"size": 32, "area": (0.2, 1.0), "recipe": "mae", "interpolation": "bilinear"}
    objective = {
        "name": "mae",
        "view": view,
        "decoder_dim": 192,
        "decoder_depth": 4,
        "decoder_heads": 3,
    }
    optim = {
        "name": "adamw",
        "lr": 1.5e-4,
        "b2": 0.95,
        "weight_decay": 0.05,
        "warmup_epochs": 40.0,
    }
    config = common.cifar10(objective, optim, epochs=800, batch_size=512)
    config.backbone = {
        "name": "vit",
        "size": "tiny",
        "patch": 4,
        "image_size": 32,
        "position": "sincos",
        "dtype": "bfloat16",
    }
    return config


def imagenet() -> ConfigDict:
    """ViT-L/16, batch 4096, 800 epochs (table 8 of the paper)."""
    optim = {
        "name": "adamw",
        "lr": 1.5e-4,
        "b2": 0.95,
        "weight_decay": 0.05,
        "warmup_epochs": 40.0,
    }
    config = common.imagenet({"name": "mae"}, optim, epochs=800, batch_size=4096)
    config.backbone = {
        "name": "vit",
        "size": "large",
        "patch": 16,
        "position": "sincos",
        "remat": "wide",
        "dtype": "bfloat16",
    }
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
