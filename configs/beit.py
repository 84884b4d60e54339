"""BEiT (2106.08254).

ssl-jax train --config=dvae:digits --workdir=TOKENIZER
ssl-jax train --config=beit:digits --workdir=W --config.train.teacher_from=TOKENIZER
ssl-jax train --config=beit:imagenet --workdir=W --data=folder:/imagenet/train \\
    --config.train.teacher_from=TOKENIZER

The tokenizer is a run of a method that makes codes, or a file of one; `objective.tokenizer`
describes it.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common, dvae


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Sixteen patches, about 40 % of which are hidden; the codes are those of dvae:digits."""
    objective = {
        "name": "beit",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5},
        "tokenizer": _tokenizer(dvae.digits()),
        "mask_ratio": 0.4,
        "min_patches": 2,
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05, "clip_norm": 3.0}
    config = common.digits(objective, optim, steps=1300, batch_size=128)
    config.backbone = common.TINY_VIT_RELATIVE
    return config


def cifar10() -> ConfigDict:
    """No published recipe: the paper's, with ViT-Ti/4 and the codes of dvae:cifar10."""
    objective = {
        "name": "beit",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "beit"},
        "tokenizer": _tokenizer(dvae.cifar10()),
        "min_patches": 4,
    }
    config = common.cifar10(objective, ADAMW, epochs=800, batch_size=512)
    config.backbone = _vit("tiny", 4, 32)
    return config


def imagenet() -> ConfigDict:
    """ViT-B/16, batch 2048, 800 epochs, 75 of 196 patches hidden (section 3.1 and the release)."""
    config = common.imagenet({"name": "beit"}, ADAMW, epochs=800, batch_size=2048)
    config.backbone = _vit("base", 16, 224) | {"remat": "wide"}
    return config


ADAMW: dict[str, Any] = {  # per 256 images: 1.5e-3 at 2048
    "name": "adamw",
    "lr": 1.5e-3 / 8,
    "lr_end": 1e-5 / 1.5e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 10.0,
    "clip_norm": 3.0,
}


def _tokenizer(config: ConfigDict) -> dict[str, Any]:
    """Describe the tokenizer that a recipe trains."""
    objective = config.objective
    return {
        "backbone": config.backbone.to_dict(),
        "vocabulary": objective.vocabulary,
        "size": 0,  # that of the view
        "recipe": objective.view.recipe,
    }


def _vit(size: str, patch: int, image_size: int) -> dict[str, Any]:
    return {
        "name": "vit",
        "size": size,
        "patch": patch,
        "image_size": image_size,
        "position": "relative",
        "layer_scale": 0.1,
        "drop_path": 0.1,
        "mask_token": True,
        "pool": "avg",
        "dtype": "bfloat16",
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
