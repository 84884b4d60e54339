"""Feature distillation (2205.14141).

ssl-jax train --config=dino:digits_vit --workdir=RUN
ssl-jax train --config=feature_distillation:digits --workdir=W --config.train.teacher_from=RUN
ssl-jax train --config=feature_distillation:imagenet --workdir=W --data=folder:/imagenet/train \\
    --config.train.teacher_from=clip_vit_base_patch16.safetensors

The teacher is a run or a file (docs/weights.md); `objective.teacher_backbone` describes its
network.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A student of two blocks; its teacher is a run of dino:digits_vit."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {
        "name": "feature_distillation",
        "view": view,
        "teacher_backbone": common.TINY_VIT_MEAN,
        "teacher_recipe": "",
    }
    optim = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05, "clip_norm": 3.0}
    config = common.digits(objective, optim, steps=600, batch_size=128)
    config.backbone = common.TINY_VIT | {
        "depth": 2,
        "position": "relative",
        "cls_token": False,
        "pool": "avg",
        "drop_path": 0.1,
    }
    return config


def imagenet() -> ConfigDict:
    """CLIP's ViT-B/16 into a ViT-B/16, batch 2048, 300 epochs (section 4.1 and the release)."""
    return _imagenet(1.2e-3)


def imagenet_dino() -> ConfigDict:
    """DINO's ViT-B/16 into a ViT-B/16."""
    config = _imagenet(1.2e-3)
    config.objective.update(
        {"teacher_backbone": {"name": "vit", "size": "base"}, "teacher_recipe": "normalize"}
    )
    return config


def _imagenet(lr: float) -> ConfigDict:
    """`lr` is that of batch 2048."""
    optim: dict[str, Any] = {
        "name": "adamw",
        "lr": lr / 8,
        "lr_end": 5e-6 / 3e-4,
        "weight_decay": 0.05,
        "clip_norm": 3.0,
        "warmup_epochs": 10.0,
    }
    config = common.imagenet({"name": "feature_distillation"}, optim, epochs=300, batch_size=2048)
    config.backbone = {
        "name": "vit",
        "size": "base",
        "patch": 16,
        "position": "relative",
        "layer_scale": 0.1,
        "pool": "avg",
        "drop_path": 0.1,
        "remat": "wide",
        "dtype": "bfloat16",
    }
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(imagenet_dino,))
