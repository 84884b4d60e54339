"""CPC v2 (1905.09272).

ssl-jax train --config=cpc_v2:digits --workdir=W
ssl-jax train --config=cpc_v2:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    objective = {
        "name": "cpc_v2",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits_upright"},
        "patch": 8,
        "stride": 4,
        "patch_recipe": "none",
        "offsets": (1, 2),
        "layers": 2,
        "width": 32,
    }
    config = common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=128)
    config.backbone = common.LAYERNORM_RESNET
    return config


def imagenet() -> ConfigDict:
    """ResNet-161, Adam as in the paper's appendix, batch 512, 200 epochs, without the paper's
    average of the weights.
    """
    optim = {
        "name": "adamw",
        "lr": 4e-4,
        "lr_scaling": "none",
        "schedule": "constant",
        "b1": 0.8,
        "clip_norm": 0.01,
    }
    config = common.imagenet({"name": "cpc_v2"}, optim, epochs=200, batch_size=512)
    config.backbone = {
        "name": "resnet_layernorm",
        "blocks": (3, 4, 46),
        "filters": (64, 128, 512),
        "widths": (256, 512, 4096),
        "dtype": "bfloat16",
    }
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet)
