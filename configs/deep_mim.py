"""DeepMIM (2303.08817).

ssl-jax train --config=deep_mim:digits --workdir=W
ssl-jax train --config=deep_mim:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=deep_mim:imagenet --workdir=W --data=folder:/imagenet/train \\
    --config.train.teacher_from=clip_vit_base_patch16.safetensors
ssl-jax train --config=deep_mim:imagenet_pixels --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Raw pixels, from the last two blocks."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "deep_mim",
        "view": view,
        "mask_ratio": 0.6,
        "layers": (-2, -1),
        "target": "pixels",
        "norm_pixels": False,
        "decoder_dim": 64,
        "decoder_depth": 1,
        "decoder_heads": 4,
    }
    config = common.digits(objective, ADAMW | {"lr": 3e-3}, steps=700, batch_size=128)
    config.backbone = common.TINY_VIT | {"depth": 3, "position": "sincos"}
    return config


def digits_mask_token() -> ConfigDict:
    """The same with SimMIM's encoder and linear decoders."""
    config = digits()
    objective = config.objective
    for name in ("decoder_dim", "decoder_depth", "decoder_heads"):
        del objective[name]
    objective.mask_ratio, objective.cell = 0.5, 4
    config.backbone = common.TINY_VIT | {"depth": 2, "pool": "avg", "mask_token": True}
    return config


def cifar10() -> ConfigDict:
    """No published recipe: the paper's on pixels, with ViT-Ti/4."""
    objective = {
        "name": "deep_mim",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "mae"},
        "target": "pixels",
        "decoder_dim": 192,
        "decoder_heads": 3,
    }
    config = common.cifar10(objective, PAPER, epochs=800, batch_size=512)
    config.backbone = _vit("tiny", 4, 32)
    return config


def imagenet() -> ConfigDict:
    """CLIP's ViT-B/16 as the teacher of a ViT-B/16, batch 4096, 1600 epochs (the release)."""
    config = common.imagenet({"name": "deep_mim"}, PAPER, epochs=1600, batch_size=4096)
    config.backbone = _vit("base", 16, 224) | {"remat": "wide"}
    return config


def imagenet_pixels() -> ConfigDict:
    """Pixels, ViT-B/16, batch 4096, 1600 epochs."""
    config = imagenet()
    config.objective.update({"target": "pixels"})
    return config


ADAMW: dict[str, Any] = {"name": "adamw", "b2": 0.95, "weight_decay": 0.05}
PAPER: dict[str, Any] = ADAMW | {"lr": 1.5e-4, "warmup_epochs": 40.0}


def _vit(size: str, patch: int, image_size: int) -> dict[str, Any]:
    return {
        "name": "vit",
        "size": size,
        "patch": patch,
        "image_size": image_size,
        "position": "sincos",
        "dtype": "bfloat16",
    }


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(cifar10, digits_mask_token, imagenet_pixels)
)
