"""MSN (2204.07141).

ssl-jax train --config=msn:digits --workdir=W
ssl-jax train --config=msn:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Without focal views: a part of a digit is another digit. Without the head's batch norm the
    loss stays at log K.
    """
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "msn",
        "views": (view,),
        "patch_drop": 0.25,
        "projector": (256, 256, 64),
        "prototypes": 64,
        "temperature": 0.25,
        "momentum": 0.98,
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.04}
    config = common.digits(objective, optim, steps=500, batch_size=128)
    config.backbone = common.TINY_VIT_MEAN
    return config


def imagenet() -> ConfigDict:
    """ViT-S/16, 224 + 10x96, batch 1024, 800 epochs (msn_vits16.yaml of the release, whose batch is
    64 per device). The release's schedules are made for 1000 epochs, so that they end at a tenth of
    the rate and a decay of 0.37. Not run.
    """
    optim = {
        "name": "adamw",
        "lr": 1e-3,
        "lr_scaling": "none",
        "lr_start": 0.2,
        "lr_end": 0.1,
        "warmup_epochs": 15.0,
        "weight_decay": 0.04,
        "weight_decay_end": 0.37,
        "clip_norm": 3.0,
        "decay_rules": ((r"(^|/)(bias|scale)$|^prototypes$", 0.0), (".*", 1.0)),
    }
    config = common.imagenet({"name": "msn"}, optim, epochs=800, batch_size=1024)
    config.backbone = {"name": "vit", "size": "small", "patch": 16, "dtype": "bfloat16"}
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet)
