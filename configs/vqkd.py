"""VQ-KD, the tokenizer of BEiT v2 (2208.06366).

ssl-jax train --config=dino:digits_vit --workdir=TEACHER
ssl-jax train --config=vqkd:digits --workdir=W --config.train.teacher_from=TEACHER
ssl-jax train --config=vqkd:imagenet --workdir=W --data=folder:/imagenet/train \\
    --config.train.teacher_from=clip_vit_base_patch16.safetensors

The teacher is a run or a file (docs/weights.md); `objective.teacher_backbone` describes its
network. `beit_v2` learns from the codes of W.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """64 codes for patches of 4 px; the teacher is a run of dino:digits_vit."""
    objective = {
        "name": "vqkd",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5},
        "teacher_backbone": common.TINY_VIT_MEAN,
        "teacher_recipe": "",
        "vocabulary": 64,
        "code_dim": 16,
        "decoder_depth": 1,
    }
    optim = {"name": "adamw", "lr": 2e-3, "b2": 0.99, "weight_decay": 1e-4}
    config = common.digits(objective, optim, steps=600, batch_size=128)
    config.backbone = common.TINY_VIT | {"depth": 2, "pool": "avg"}
    return config


def imagenet() -> ConfigDict:
    """CLIP's ViT-B/16 as the teacher, a decoder of three blocks, batch 512, 100 epochs."""
    return _imagenet({})


def imagenet_dino() -> ConfigDict:
    """DINO's ViT-B/16 as the teacher."""
    teacher = {"teacher_backbone": {"name": "vit", "size": "base"}, "teacher_recipe": "normalize"}
    return _imagenet(teacher)


def _imagenet(objective: dict[str, Any]) -> ConfigDict:
    """Build the config of microsoft/unilm, beit2, with a rate of 5e-5 per 128 images."""
    optim = {
        "name": "adamw",
        "lr": 1e-4,
        "lr_end": 0.05,
        "b2": 0.99,
        "weight_decay": 1e-4,
        "warmup_epochs": 10.0,
    }
    view = {"size": 224, "area": (0.08, 1.0), "recipe": "vqkd", "interpolation": "bicubic"}
    objective = {"name": "vqkd", "view": view, "vocabulary": 8192, "code_dim": 32} | objective
    config = common.imagenet(objective, optim, epochs=100, batch_size=512)
    vit = {"name": "vit", "size": "base", "patch": 16, "pool": "avg"}
    config.backbone = vit | {"remat": "wide", "dtype": "bfloat16"}
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(imagenet_dino,))
