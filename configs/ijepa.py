"""I-JEPA (2301.08243).

ssl-jax train --config=ijepa:digits --workdir=W
ssl-jax train --config=ijepa:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=ijepa:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Sixteen patches, with two targets of four to six of them. With smaller targets, or with a
    predictor that does not learn faster than the encoder (here at ten times its rate), the features
    gain little.
    """
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "ijepa",
        "view": view,
        "blocks": 2,
        "target_scale": (0.3, 0.5),
        "min_keep": 4,
        "predictor_dim": 32,
        "predictor_depth": 1,
        "predictor_heads": 4,
        "momentum": 0.99,
    }
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "lr_rules": FAST_PREDICTOR}
    config = common.digits(objective, optim, steps=1200, batch_size=128)
    config.backbone = common.TINY_VIT | {"depth": 2} | PATCHES_ONLY | {"position": "learned"}
    return config


def cifar10() -> ConfigDict:
    """No published recipe: the paper's, with ViT-Ti/4 and a predictor of half its depth."""
    objective = {
        "name": "ijepa",
        "view": {"size": 32, "area": (0.3, 1.0), "recipe": "normalize"},
        "predictor_dim": 96,
        "predictor_depth": 6,
        "predictor_heads": 3,
    }
    config = common.cifar10(objective, ADAMW, epochs=800, batch_size=512)
    config.backbone = _vit("tiny", 4, 32)
    return config


def imagenet() -> ConfigDict:
    """ViT-H/14, batch 2048, 300 epochs (in1k_vith14_ep300.yaml of the release), with contexts that
    are not cut to the shortest of the batch; `objective.released_masks` cuts them.
    """
    config = common.imagenet({"name": "ijepa"}, ADAMW, epochs=300, batch_size=2048)
    config.backbone = _vit("huge", 14, 224) | {"remat": "full"}
    return config


PATCHES_ONLY: dict[str, Any] = {
    "position": "sincos",
    "init": "normal",
    "cls_token": False,
    "pool": "avg",
}
# Of short runs of small networks.
FAST_PREDICTOR = ((r"^predictor/", 10.0), (".*", 1.0))
ADAMW: dict[str, Any] = {  # per 256 images: 1e-3 at 2048
    "name": "adamw",
    "lr": 1.25e-4,
    "lr_start": 0.2,
    "lr_end": 1e-3,
    "warmup_epochs": 40.0,
    "weight_decay": 0.04,
    "weight_decay_end": 0.4,
}


def _vit(size: str, patch: int, image_size: int) -> dict[str, Any]:
    sizes = {"name": "vit", "size": size, "patch": patch, "image_size": image_size}
    return sizes | PATCHES_ONLY | {"dtype": "bfloat16"}


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
