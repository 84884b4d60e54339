"""RotNet (1803.07728).

ssl-jax train --config=rotnet:digits --workdir=W
ssl-jax train --config=rotnet:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=rotnet:cifar10_cpu --workdir=W --data=npz:train.npz --eval_data=npz:test.npz
ssl-jax train --config=rotnet:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=rotnet:imagenet_alexnet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Little rotation in the augmentation, which would otherwise hide the answer."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits_upright", "strength": 0.7}
    objective = {"name": "rotnet", "view": view}
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=128)


def cifar10() -> ConfigDict:
    """The release's schedule (config/CIFAR10_RotNet_NIN4blocks.py) with a ResNet-18."""
    return common.cifar10(_objective(), common.STEPS_CIFAR10, epochs=200, batch_size=128)


def cifar10_cpu() -> ConfigDict:
    """Minutes on one CPU core; `benchmarks/single_image.py` trains it."""
    optim = {"name": "adamw", "lr": 2e-3}
    return common.cifar10_cpu(_objective(), optim, steps=600, batch_size=64)


def imagenet() -> ConfigDict:
    """ResNet-50 for 70 epochs, as mmselfsup trains it."""
    objective = {"name": "rotnet"}
    optim = common.STEPS_IMAGENET | {"milestones": (30, 50)}
    return common.imagenet(objective, optim, epochs=70, batch_size=512)


def imagenet_alexnet() -> ConfigDict:
    """The release's network and schedule (config/ImageNet_RotNet_AlexNet.py), without its two
    layers of 4096.
    """
    optim = {
        "name": "sgd",
        "nesterov": True,
        "lr": 0.01,
        "lr_scaling": "none",
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (15, 30, 45),
    }
    config = common.alexnet({"name": "rotnet"}, optim, epochs=50, batch_size=192)
    config.backbone.widths = (64, 192, 384, 256, 256)
    config.evals.linear.preset = "rotnet"
    return config


def _objective() -> dict[str, Any]:
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "rotnet"}
    return {"name": "rotnet", "view": view}


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(cifar10, cifar10_cpu, imagenet_alexnet)
)
