"""BEiT v2 (2208.06366).

ssl-jax train --config=vqkd:digits --workdir=TOKENIZER --config.train.teacher_from=TEACHER
ssl-jax train --config=beit_v2:digits --workdir=W --config.train.teacher_from=TOKENIZER
ssl-jax train --config=beit_v2:imagenet --workdir=W --data=folder:/imagenet/train \\
    --config.train.teacher_from=TOKENIZER

The tokenizer is a run of a method that makes codes, or a file of one; `objective.tokenizer`
describes it. TEACHER: see vqkd.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common, vqkd


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Sixteen patches, about 40 % of which are hidden; the codes are those of vqkd:digits."""
    objective = {
        "name": "beit_v2",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5},
        "tokenizer": _tokenizer(vqkd.digits()),
        "mask_ratio": 0.4,
        "min_patches": 2,
        "early_layer": 1,
        "extra_layers": 1,
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05, "clip_norm": 3.0}
    config = common.digits(objective, optim, steps=1100, batch_size=128)
    config.backbone = common.TINY_VIT_RELATIVE
    return config


def imagenet() -> ConfigDict:
    """ViT-B/16, batch 2048, 300 epochs, codes of vqkd:imagenet."""
    return _imagenet("base", 9, epochs=300, b2=0.98, layer_scale=0.1)


def imagenet_long() -> ConfigDict:
    """The same for 1600 epochs."""
    return _imagenet("base", 9, epochs=1600, b2=0.999, layer_scale=0.1, drop_path=0.1)


def imagenet_large() -> ConfigDict:
    """ViT-L/16, 1600 epochs."""
    return _imagenet("large", 21, epochs=1600, b2=0.999, layer_scale=1e-5, drop_path=0.1)


def _imagenet(size: str, early_layer: int, epochs: int, b2: float, **options: Any) -> ConfigDict:
    """Build the config of microsoft/unilm, beit2, with a rate of 1.5e-3 at batch 2048."""
    objective = {
        "name": "beit_v2",
        "tokenizer": _tokenizer(vqkd.imagenet()),
        "early_layer": early_layer,
    }
    optim = {
        "name": "adamw",
        "lr": 1.5e-3 / 8,
        "lr_end": 1e-5 / 1.5e-3,
        "b2": b2,
        "weight_decay": 0.05,
        "warmup_epochs": 10.0,
        "clip_norm": 3.0,
    }
    config = common.imagenet(objective, optim, epochs=epochs, batch_size=2048)
    config.backbone = {
        "name": "vit",
        "size": size,
        "patch": 16,
        "position": "relative",
        "pool": "avg",
        "mask_token": True,
        "remat": "wide",
        "dtype": "bfloat16",
    } | options
    return config


def _tokenizer(config: ConfigDict) -> dict[str, Any]:
    """Describe the tokenizer that a recipe trains."""
    objective = config.objective
    return {
        "backbone": config.backbone.to_dict(),
        "vocabulary": objective.vocabulary,
        "code_dim": objective.code_dim,
        "recipe": objective.view.recipe,
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(imagenet_long, imagenet_large))
