"""Colorful image colorization (1603.08511).

ssl-jax train --config=colorization:photos --workdir=W
ssl-jax train --config=colorization:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=colorization:cifar10_cpu --workdir=W --data=npz:train.npz \\
    --eval_data=npz:test.npz
ssl-jax train --config=colorization:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=colorization:imagenet_alexnet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def photos() -> ConfigDict:
    """The 2 x 2 map of the small network is doubled to the 4 x 4 pixels of the target."""
    view = {"size": 16, "area": (0.3, 1.0), "recipe": "lab"}
    objective = {"name": "colorization", "view": view, "stride": 4, "width": 32}
    return common.photos(objective, {"name": "adamw", "lr": 2e-3}, steps=800, batch_size=64)


def cifar10() -> ConfigDict:
    """No published recipe: a ResNet-18, its 4 x 4 map doubled to the 8 x 8 pixels of the target."""
    optim = {"name": "adamw", "lr": 1e-3, "lr_scaling": "none", "weight_decay": 0.05}
    return common.cifar10(_objective(width=128), optim, epochs=200, batch_size=128)


def cifar10_cpu() -> ConfigDict:
    """One epoch, 13 CPU minutes on a slow machine. Measured (JPEG copies, seed 0, the command
    above): nearest neighbours .382, untrained .280, raw pixels .309; 5 labels per class .235, .151
    and .203.
    """
    optim = {"name": "adamw", "lr": 2e-3}
    return common.cifar10_cpu(_objective(width=32), optim, steps=400, batch_size=128)


def imagenet() -> ConfigDict:
    """The released network and solver (train/solver.prototxt): Adam, 500,000 steps of 40 images,
    the rate a tenth after 225,000. Its weight decay adds to the gradient: here it is decoupled, so
    the strength is that of AdamW.
    """
    optim = {
        "name": "adamw",
        "lr": 3e-5,
        "lr_scaling": "none",
        "b2": 0.99,
        "weight_decay": 1e-3,
        "schedule": "step",
        "milestones": (7.0,),
        "decay": 0.1,
    }
    config = common.imagenet({"name": "colorization"}, optim, epochs=16, batch_size=40)
    config.backbone = {"name": "vgg_dilated", "dtype": "bfloat16"}
    return config


def imagenet_alexnet() -> ConfigDict:
    """The paper's network for learning features: colours of every eighth pixel, batches of 80. Its
    rate falls to 1e-5, 3e-6 and 1e-6 after 240,000, 300,000 and 400,000 steps, here to 3e-6 after
    300,000. Crops of 176 px, which 8 divides, in place of 180.
    """
    optim = {
        "name": "adamw",
        "lr": 3e-5,
        "lr_scaling": "none",
        "weight_decay": 1e-3,
        "schedule": "step",
        "milestones": (19.0,),
    }
    objective = {"name": "colorization", "stride": 8}
    return common.alexnet(objective, optim, epochs=28, batch_size=80)


def _objective(width: int) -> dict[str, Any]:
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "lab"}
    return {"name": "colorization", "view": view, "width": width}


RECIPES = common.Recipes(
    small=photos, paper=imagenet, others=(cifar10, cifar10_cpu, imagenet_alexnet)
)
