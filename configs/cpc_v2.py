"""CPC v2 (1905.09272).

ssl-jax train --config=cpc_v2:digits --workdir=W
ssl-jax train --config=cpc_v2:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=cpc_v2:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """3 x 3 patches of 12 px, 2 px apart. Every patch is distorted by itself and the image is not:
    brightness or noise that all patches share would reveal which of them belong together.
    """
    objective = {
        "name": "cpc_v2",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "none"},
        "patch": 12,
        "stride": 2,
        "patch_recipe": common.DIGIT_PATCHES,
        "offsets": (1, 2),
        "layers": 2,
        "width": 32,
    }
    config = common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=300, batch_size=64)
    config.backbone = common.LAYERNORM_RESNET
    return config


def cifar10() -> ConfigDict:
    """No published recipe: patches of 10 px, 5 px apart, as a third-party code has them
    (rschwarz15/CPCV2-PyTorch); RotNet's number of epochs.
    """
    objective = {
        "name": "cpc_v2",
        "view": {"size": 30, "area": (0.8, 1.0), "recipe": "flip"},
        "patch": 10,
        "stride": 5,
        "offsets": (2, 3, 4),
        "width": 128,
    }
    optim = {"name": "adamw", "lr": 4e-4, "lr_scaling": "none", "b1": 0.8}
    config = common.cifar10(objective, optim, epochs=200, batch_size=256)
    config.backbone = {
        "name": "resnet_layernorm",
        "blocks": (3, 4, 6),
        "stem": "cifar",
        "dtype": "bfloat16",
    }
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


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
