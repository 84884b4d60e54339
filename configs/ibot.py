"""iBOT (2111.07832).

ssl-jax train --config=ibot:digits --workdir=W
ssl-jax train --config=ibot:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=ibot:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A tiny ViT; the loss trains the layer that the probe reads, the mean of the patches. It needs
    the high learning rate and views as strong as MoCo's: at 3e-4 and half the strength it learns
    almost nothing.
    """
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "ibot",
        "views": (view,),
        "prototypes": 256,
        "hidden_dim": 256,
        "bottleneck_dim": 64,
        "head_norm": "batch",
        "temperature": 0.04,
        "patch_temperature": 0.04,
        "warmup_epochs": 0,
        "momentum": 0.98,
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.04}
    config = common.digits(objective, optim, steps=600, batch_size=128)
    config.backbone = common.TINY_VIT_MEAN | {"mask_token": True}
    return config


def cifar10() -> ConfigDict:
    """Our own, after the paper's ViT-S, without small crops, since the images are small."""
    view = {"size": 32, "area": (0.25, 1.0)}
    views = (view | {"recipe": "byol_cifar_1"}, view | {"recipe": "byol_cifar_2"})
    objective = {"name": "ibot", "views": views, "norm_last_layer": False}
    config = common.cifar10(objective, _optim(), epochs=400, batch_size=512)
    config.backbone = {
        "name": "vit",
        "size": "tiny",
        "patch": 4,
        "image_size": 32,
        "mask_token": True,
        "dtype": "bfloat16",
    }
    return config


def imagenet() -> ConfigDict:
    """ViT-S/16, 2x224 + 10x96, batch 1024, 800 epochs (README of the release)."""
    objective = {"name": "ibot", "norm_last_layer": False}
    config = common.imagenet(objective, _optim(), epochs=800, batch_size=1024)
    config.backbone = {
        "name": "vit",
        "size": "small",
        "patch": 16,
        "mask_token": True,
        "interpolate_offset": 0.1,
        "dtype": "bfloat16",
    }
    return config


def _optim() -> dict:
    return {
        "name": "adamw",
        "lr": 5e-4,
        "lr_end": 2e-3,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "warmup_epochs": 10.0,
        "warmup_inclusive": True,
        "clip_per_parameter": 3.0,
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
