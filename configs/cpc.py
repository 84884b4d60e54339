"""CPC (1807.03748).

ssl-jax train --config=cpc:digits --workdir=W
ssl-jax train --config=cpc:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """2 x 2 patches of 12 px, 4 px apart: three quarters of a digit's side, as smaller ones do not
    show how its strokes are arranged. Every patch is distorted by itself, or their common pixels
    would tell which belong together.
    """
    objective = {
        "name": "cpc",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "none"},
        "patch": 12,
        "stride": 4,
        "border": 0,
        "patch_recipe": common.DIGIT_PATCHES,
        "offsets": (1,),
        "layers": 2,
    }
    config = common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=300, batch_size=128)
    config.backbone = common.LAYERNORM_RESNET
    return config


def imagenet() -> ConfigDict:
    """Adam, 32 GPUs of 16 images, as remembered of the paper, which does not state the epochs."""
    optim = {"name": "adamw", "lr": 2e-4, "lr_scaling": "none", "schedule": "constant"}
    config = common.imagenet({"name": "cpc"}, optim, epochs=200, batch_size=512)
    config.backbone = {"name": "resnet_layernorm", "dtype": "bfloat16"}
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet)
