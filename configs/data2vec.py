"""data2vec for images (2202.03555).

ssl-jax train --config=data2vec:digits --workdir=W
ssl-jax train --config=data2vec:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=data2vec:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Sixteen patches, half of which are hidden."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "data2vec",
        "view": view,
        "mask_ratio": 0.5,
        "min_patches": 2,
        "layers": 2,
        "momentum": (0.98, 0.999),
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05, "clip_norm": 3.0}
    config = common.digits(objective, optim, steps=1000, batch_size=128)
    config.backbone = common.TINY_VIT_RELATIVE
    return config


def cifar10() -> ConfigDict:
    """No published recipe: the paper's, with ViT-Ti/4 and blocks of at least 4 patches."""
    objective = {
        "name": "data2vec",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "mae"},
        "min_patches": 4,
        "momentum": (0.999, 0.9998),
    }
    config = common.cifar10(objective, ADAMW, epochs=800, batch_size=512)
    config.backbone = _vit("tiny", 4, 32)
    return config


def imagenet() -> ConfigDict:
    """ViT-B/16, batch 2048, 800 epochs, 120 of 196 patches hidden (the command in the README of
    facebookresearch/data2vec_vision).
    """
    objective = {"name": "data2vec", "mask_ratio": 120 / 196}
    config = common.imagenet(objective, ADAMW, epochs=800, batch_size=2048)
    config.backbone = _vit("base", 16, 224) | {"remat": "full"}
    return config


def imagenet_fairseq() -> ConfigDict:
    """ViT-B/16, batch 2048, 375,300 steps, 75 of 196 patches hidden (base_imagenet_d2v1.yaml of
    fairseq).
    """
    objective = {
        "name": "data2vec",
        "mask_ratio": 75 / 196,
        "layer_norm": "none",
        "loss_scale": 768**0.5,
        "momentum": (0.999, 0.9998),
    }
    optim = ADAMW | {"lr": 5e-4 / 8, "lr_end": 0.0, "warmup_epochs": 0.0, "warmup_steps": 12_510}
    config = common.imagenet(objective, optim, epochs=0, batch_size=2048)
    del config.train.epochs
    config.train.steps = 375_300
    config.backbone = _vit("base", 16, 224) | {"remat": "full", "norm_eps": 1e-5}
    return config


ADAMW: dict[str, Any] = {  # per 256 images: 2e-3 at 2048
    "name": "adamw",
    "lr": 2.5e-4,
    "lr_end": 5e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 10.0,
    "clip_norm": 3.0,
}


def _vit(size: str, patch: int, image_size: int) -> dict[str, Any]:
    return {
        "name": "vit",
        "size": size,
        "patch": patch,
        "image_size": image_size,
        "position": "relative",
        "layer_scale": 1e-4,
        "drop_path": 0.25,
        "mask_token": True,
        "pool": "avg",
        "dtype": "bfloat16",
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, imagenet_fairseq))
