"""DINOv2 (2304.07193).

ssl-jax train --config=dinov2:digits --workdir=W
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "dinov2",
        "views": (view,),
        "prototypes": 256,
        "patch_prototypes": 256,
        "hidden_dim": 256,
        "bottleneck_dim": 64,
        "temperature": 0.04,
        "warmup_epochs": 0,
        "momentum": 0.98,
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.04}
    config = common.digits(objective, optim, steps=600, batch_size=128)
    config.backbone = common.TINY_VIT_MEAN | {"mask_token": True, "registers": 2}
    return config


RECIPES = common.Recipes(small=digits, paper=digits)
