"""SimMIM (2111.09886).

ssl-jax train --config=simmim:digits --workdir=W
ssl-jax train --config=simmim:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=simmim:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=simmim:imagenet_swin --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A shallow ViT; cells of one patch."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {"name": "simmim", "view": view, "mask_ratio": 0.5, "cell": 4}
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05, "clip_norm": 5.0}
    config = common.digits(objective, optim, steps=1500, batch_size=64)
    config.backbone = common.TINY_VIT | {"depth": 2, "pool": "avg", "mask_token": True}
    return config


def cifar10() -> ConfigDict:
    """No published recipe: the paper's ratio of cell to image, ViT-Ti/4."""
    view = {"size": 32, "area": (0.67, 1.0), "recipe": "mae"}
    objective = {"name": "simmim", "view": view, "cell": 4}
    config = common.cifar10(objective, _adamw(1e-4), epochs=800, batch_size=512)
    config.backbone = _vit("tiny", 4, 32)
    return config


def imagenet() -> ConfigDict:
    """ViT-B/16 at 224 px, batch 2048, 800 epochs (the release's
    simmim_pretrain__vit_base__img224__800ep, without its drop path of 0.1).
    """
    view = {"size": 224, "area": (0.67, 1.0), "recipe": "mae"}
    optim = _adamw(1e-4)
    config = common.imagenet({"name": "simmim", "view": view}, optim, epochs=800, batch_size=2048)
    config.backbone = _vit("base", 16, 224)
    return config


def imagenet_swin() -> ConfigDict:
    """Swin-B at 192 px in windows of 6, batch 2048, 100 epochs (the release's
    simmim_pretrain__swin_base__img192_window6__100ep).
    """
    optim = _adamw(2e-4) | {"schedule": "cosine", "milestones": (), "lr_end": 0.05}
    rules = ((r"(^|/)(bias|scale|table|mask_token)$", 0.0), (".*", 1.0))
    config = common.imagenet(
        {"name": "simmim"},
        optim | {"decay_rules": rules},
        epochs=100,
        batch_size=2048,
    )
    config.backbone = {
        "name": "swin",
        "size": "base",
        "window": 6,
        "image_size": 192,
        "mask_token": True,
        "remat": "full",
        "dtype": "bfloat16",
    }
    return config


def _vit(size: str, patch: int, image_size: int) -> dict:
    return {
        "name": "vit",
        "size": size,
        "patch": patch,
        "image_size": image_size,
        "position": "relative",
        "layer_scale": 0.1,
        "pool": "avg",
        "mask_token": True,
        "remat": "full",
        "dtype": "bfloat16",
    }


def _adamw(base: float) -> dict:
    """AdamW; `base` is the learning rate per 512 images, as in the release."""
    return {
        "name": "adamw",
        "lr": base / 2,
        "weight_decay": 0.05,
        "clip_norm": 5.0,
        "schedule": "step",
        "milestones": (700,),
        "warmup_epochs": 10.0,
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, imagenet_swin))
