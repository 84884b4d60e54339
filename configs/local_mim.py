"""LocalMIM (2303.05251).

ssl-jax train --config=local_mim:digits --workdir=W
ssl-jax train --config=local_mim:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=local_mim:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=local_mim:imagenet_swin --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """The first block predicts cells of two pixels, the last one those of a patch."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "local_mim",
        "view": view,
        "mask_ratio": 0.6,
        "layers": (0, -1),
        "scales": (2.0, 1.0),
        "decoder_dim": 64,
        "decoder_heads": 4,
    }
    config = common.digits(objective, ADAMW | {"lr": 3e-3}, steps=700, batch_size=128)
    config.backbone = common.TINY_VIT | {"depth": 2, "position": "sincos"}
    return config


def cifar10() -> ConfigDict:
    """No published recipe: the paper's, with ViT-Ti/4 and cells of 2 to 8 pixels."""
    objective = {
        "name": "local_mim",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "mae"},
        "scales": (2.0, 2.0, 1.0, 0.5),
    }
    optim = ADAMW | {"lr": 2e-4, "warmup_epochs": 40.0}
    config = common.cifar10(objective, optim, epochs=800, batch_size=512)
    config.backbone = _vit("tiny", 4, 32)
    return config


def imagenet() -> ConfigDict:
    """ViT-B/16, batch 2048, 1600 epochs (the release's ViT)."""
    optim = ADAMW | {"lr": 2e-4, "warmup_epochs": 40.0}
    config = common.imagenet({"name": "local_mim"}, optim, epochs=1600, batch_size=2048)
    config.backbone = _vit("base", 16, 224) | {"remat": "full"}
    return config


def imagenet_swin() -> ConfigDict:
    """Swin-B, batch 2048, 400 epochs (the release's values, but with a mask token)."""
    objective = {
        "name": "local_mim",
        "layers": (0, 1, 2, 3),
        "scales": (0.5, 0.5, 0.5, 1.0),
        "bins": 18,
    }
    optim = ADAMW | {"lr": 1e-4, "warmup_epochs": 40.0}
    config = common.imagenet(objective, optim, epochs=400, batch_size=2048)
    config.backbone = {
        "name": "swin",
        "size": "base",
        "mask_token": True,
        "remat": "full",
        "dtype": "bfloat16",
    }
    return config


ADAMW: dict[str, Any] = {"name": "adamw", "b2": 0.95, "weight_decay": 0.05}


def _vit(size: str, patch: int, image_size: int) -> dict[str, Any]:
    return {
        "name": "vit",
        "size": size,
        "patch": patch,
        "image_size": image_size,
        "position": "sincos",
        "dtype": "bfloat16",
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, imagenet_swin))
