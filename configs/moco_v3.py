"""MoCo v3 (2104.02057).

ssl-jax train --config=moco_v3:digits --workdir=W
ssl-jax train --config=moco_v3:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=moco_v3:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "moco_v3",
        "views": (view, view),
        "projector": (256, 128),
        "predictor": (256, 128),
        "temperature": 0.2,
        "momentum": 0.98,
    }
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=128)


def digits_vit() -> ConfigDict:
    """A tiny ViT; the loss trains the layer that the probe reads, the mean of the patches."""
    config = digits()
    config.objective.predictor_norm = True
    config.optim.update({"lr": 3e-3, "warmup_steps": 60})
    config.train.steps = 600
    config.backbone = common.TINY_VIT_MEAN
    return config


def cifar10() -> ConfigDict:
    """solo-learn's CIFAR recipe with a ResNet-18: asymmetric views without blur, 1000 epochs."""
    view = {"size": 32, "area": (0.08, 1.0)}
    objective = {
        "name": "moco_v3",
        "views": (view | {"recipe": "byol_cifar_1"}, view | {"recipe": "byol_cifar_2"}),
        "temperature": 0.2,
    }
    optim = {
        "name": "lars",
        "lr": 0.3,
        "weight_decay": 1e-6,
        "trust_coefficient": 0.02,
        "warmup_epochs": 10.0,
    }
    return common.cifar10(objective, optim, epochs=1000, batch_size=256)


def imagenet() -> ConfigDict:
    """ViT-S/16 with 12 heads, batch 4096, 300 epochs (section 5 of the paper, released command)."""
    view = {"size": 224, "area": (0.08, 1.0)}
    views = (view | {"recipe": "dino_1"}, view | {"recipe": "dino_2"})
    objective = {
        "name": "moco_v3",
        "views": views,
        "projector": (4096, 4096, 256),
        "predictor_norm": True,
        "temperature": 0.2,
    }
    optim = {
        "name": "adamw",
        "lr": 1.5e-4,
        "weight_decay": 0.1,
        "decay_rules": ((".*", 1.0),),  # biases and norms too, as released
        "warmup_epochs": 40.0,
    }
    config = common.imagenet(objective, optim, epochs=300, batch_size=4096)
    config.backbone = {
        "name": "vit",
        "size": "small",
        "heads": 12,
        "patch": 16,
        "position": "sincos_mocov3",
        "remat": "wide",
        "dtype": "bfloat16",
    }
    return config


def imagenet_resnet() -> ConfigDict:
    """ResNet-50, batch 4096, 1000 epochs (CONFIG.md of facebookresearch/moco-v3)."""
    objective = {"name": "moco_v3", "momentum": 0.996}
    optim = {"name": "lars", "lr": 0.3, "weight_decay": 1.5e-6, "warmup_epochs": 10.0}
    return common.imagenet(objective, optim, epochs=1000, batch_size=4096)


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(digits_vit, cifar10, imagenet_resnet)
)
