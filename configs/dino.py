"""DINO (2104.14294).

ssl-jax train --config=dino:digits --workdir=W
ssl-jax train --config=dino:digits_vit --workdir=W
ssl-jax train --config=dino:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=dino:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=dino:imagenet_vit_base --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=dino:imagenet_resnet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Weak augmentation without small crops; with stronger views the loss stays at or near log K,
    the uniform distribution.
    """
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.4}
    objective = {
        "name": "dino",
        "views": (view,),
        "prototypes": 256,
        "hidden_dim": 256,
        "bottleneck_dim": 64,
        "momentum": 0.99,
    }
    optim = {"name": "adamw", "lr": 5e-4, "weight_decay": 0.04}
    return common.digits(objective, optim, steps=700, batch_size=128)


def digits_vit() -> ConfigDict:
    config = digits()
    config.objective.views[0]["strength"] = 0.6
    config.objective.update({"head_norm": "batch", "momentum": 0.98})
    config.optim.update({"lr": 3e-3, "warmup_steps": 60})
    config.train.steps = 600
    config.backbone = common.TINY_VIT_MEAN
    return config


def cifar10() -> ConfigDict:
    """lightly's CIFAR-10 benchmark: two crops without blur, 2048 prototypes, SGD."""
    view = {"size": 32, "area": (0.08, 1.0)}
    views = (view | {"recipe": "byol_cifar_1"}, view | {"recipe": "byol_cifar_2"})
    objective = {"name": "dino", "views": views, "prototypes": 2048, "warmup_epochs": 5}
    objective |= {"temperature": 0.07}
    optim = {"name": "sgd", "lr": 0.06, "weight_decay": 5e-4}
    return common.cifar10(objective, optim, epochs=200, batch_size=512)


def imagenet() -> ConfigDict:
    """ViT-S/16, 2x224 + 8x96, batch 1024, 300 epochs (README of the release, "boosted")."""
    objective = {
        "name": "dino",
        "norm_last_layer": False,
        "temperature": 0.07,
        "warmup_epochs": 30,
    }
    optim = {
        "name": "adamw",
        "lr": 5e-4,
        "lr_end": 2e-3,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "warmup_epochs": 10.0,
        "warmup_inclusive": True,
        "clip_per_parameter": 3.0,
    }
    config = common.imagenet(objective, optim, epochs=300, batch_size=1024)
    config.backbone = {
        "name": "vit",
        "size": "small",
        "patch": 16,
        "interpolate_offset": 0.1,
        "dtype": "bfloat16",
    }
    return config


def imagenet_vit_base() -> ConfigDict:
    """ViT-B/16, 2x224 + 10x96, batch 1024, 400 epochs (arguments published with the released
    weights, from memory: not compared with them).
    """
    config = imagenet()
    config.objective.update(
        {
            "views": _views(0.25, 10),
            "norm_last_layer": True,
            "freeze_epochs": 3,
            "warmup_epochs": 50,
        }
    )
    config.backbone.size = "base"
    config.optim.lr = 7.5e-4
    config.optim.lr_end = 2e-6 / 3e-3
    config.optim.clip_per_parameter = 0.3
    config.train.epochs = 400
    return config


def imagenet_resnet() -> ConfigDict:
    """ResNet-50, 2x224 + 8x96, SGD, batch 512, 100 epochs (README of the release)."""
    objective = {"name": "dino", "views": _views(0.14, 8)}
    optim = {"name": "sgd", "lr": 0.03, "weight_decay": 1e-4, "warmup_epochs": 10.0}
    optim |= {"warmup_inclusive": True, "clip_per_parameter": 3.0}
    return common.imagenet(objective, optim, epochs=100, batch_size=512)


def _views(border: float, local: int) -> tuple:
    """Two large crops of more and `local` small ones of less than this share of the image."""
    large = {"size": 224, "area": (border, 1.0), "interpolation": "bicubic"}
    small = {"size": 96, "area": (0.05, border), "interpolation": "bicubic"}
    chains = ({"recipe": "dino_1"}, {"recipe": "dino_2"})
    return (*(large | chain for chain in chains), small | {"count": local, "recipe": "dino_local"})


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(digits_vit, cifar10, imagenet_vit_base, imagenet_resnet)
)
