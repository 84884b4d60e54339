"""V-JEPA (2404.08471).

ssl-jax train --config=vjepa:moving_digits --workdir=W
ssl-jax train --config=vjepa:videomix2m --workdir=W --data=frames:/clips
"""

from ml_collections import ConfigDict

from configs import common, ijepa


def get_config(recipe: str = "videomix2m") -> ConfigDict:
    return RECIPES.build(recipe)


def moving_digits() -> ConfigDict:
    """Clips of 16 frames, 32 px, in 4 x 8 x 8 tubelets; mirrored digits would be others."""
    objective = {
        "name": "vjepa",
        "view": {"size": 32, "area": (1.0, 1.0), "recipe": "normalize"},
        "tubes": (
            {"blocks": 8, "scale": 0.15, "context": 31, "targets": 32},
            {"blocks": 2, "scale": 0.7, "context": 22, "targets": 32},
        ),
        "predictor_dim": 32,
        "predictor_depth": 1,
        "predictor_heads": 4,
        "momentum": 0.99,
    }
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "lr_rules": ijepa.FAST_PREDICTOR}
    config = common.moving_digits(objective, optim, steps=300, batch_size=32)
    config.backbone = {
        "name": "vit_video",
        "size": None,
        "dim": 64,
        "depth": 2,
        "heads": 4,
        "patch": 4,
        "image_size": 32,
        "frames": 16,
        "tubelet": 4,
        "position": "learned",
        "cls_token": False,
        "pool": "avg",
    }
    return config


def videomix2m() -> ConfigDict:
    """ViT-L/16 on clips of 16 frames, batch 3072, 90,000 steps (vitl16.yaml of the release).

    Frames are consecutive here and every fourth one in the release: store clips at a quarter of
    their rate (7.5 frames per second). Its schedules are those of 112,500 steps, 1.25 times as
    many, of which 90,000 are run.
    """
    tubes = (
        {"blocks": 8, "scale": 0.15, "context": 110, "targets": 157},
        {"blocks": 2, "scale": 0.7, "context": 66, "targets": 195},
    )
    optim = {
        "name": "adamw",
        "lr": 6.25e-4,
        "lr_scaling": "none",
        "lr_start": 0.32,
        "lr_end": 1.6e-3,
        "warmup_steps": 12000,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "clip_norm": 10.0,
    }
    objective = {"name": "vjepa", "tubes": tubes}
    config = common.imagenet(objective, optim, epochs=1, batch_size=3072)
    config.train = {"steps": 112_500, "stop_at": 90_000, "batch_size": 3072, "log_every": 50}
    config.backbone = {
        "name": "vit_video",
        "size": "large",
        "patch": 16,
        "image_size": 224,
        "position": "sincos",
        "init": "normal",
        "cls_token": False,
        "pool": "avg",
        "remat": "full",
        "dtype": "bfloat16",
    }
    return config


RECIPES = common.Recipes(small=moving_digits, paper=videomix2m)
