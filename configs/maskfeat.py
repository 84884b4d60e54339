"""MaskFeat (2112.09133).

ssl-jax train --config=maskfeat:digits --workdir=W
ssl-jax train --config=maskfeat:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=maskfeat:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Sixteen patches of four cells each, half of them hidden."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {"name": "maskfeat", "view": view, "mask_ratio": 0.5, "min_patches": 2, "cell": 2}
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05, "clip_norm": 1.0}
    config = common.digits(objective, optim, steps=1000, batch_size=128)
    config.backbone = common.TINY_VIT | {"depth": 2, "pool": "avg", "mask_token": True}
    return config


def cifar10() -> ConfigDict:
    """No published recipe: the paper's, with ViT-Ti/4 and cells of half a patch."""
    objective = {
        "name": "maskfeat",
        "view": {"size": 32, "area": (0.5, 1.0), "recipe": "mae"},
        "min_patches": 5,
        "cell": 2,
    }
    config = common.cifar10(objective, ADAMW, epochs=800, batch_size=512)
    config.backbone = _vit("tiny", 4, 32)
    return config


def imagenet() -> ConfigDict:
    """ViT-B/16, batch 2048, 300 epochs (in1k_VIT_B_MaskFeat_PT.yaml of SlowFast)."""
    config = common.imagenet({"name": "maskfeat"}, ADAMW, epochs=300, batch_size=2048)
    config.backbone = _vit("base", 16, 224) | {"remat": "full"}
    return config


ADAMW: dict[str, Any] = {
    "name": "adamw",
    "lr": 2e-4,  # per 256 images
    "lr_end": 5e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 30.0,
    "clip_norm": 0.02,
}


def _vit(size: str, patch: int, image_size: int) -> dict[str, Any]:
    return {
        "name": "vit",
        "size": size,
        "patch": patch,
        "image_size": image_size,
        "mask_token": True,
        "pool": "avg",
        "dtype": "bfloat16",
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
