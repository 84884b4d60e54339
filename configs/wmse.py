"""W-MSE (2007.06346).

ssl-jax train --config=wmse:digits --workdir=W
ssl-jax train --config=wmse:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=wmse:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Sub-batches of twice the embedding's width, as in the paper."""
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.8}
    objective = {"name": "wmse", "view": view, "projector": (256, 8), "size": 16}
    return common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=256)


def cifar10() -> ConfigDict:
    """ResNet-18, batch 512, 1000 epochs, Adam 3e-3, sub-batches of 128 and 64 features (section 4
    of the paper, from memory; its decay of 1e-6 is added to the gradient and here decoupled).
    """
    view = {"size": 32, "count": 2, "area": (0.2, 1.0), "recipe": "moco_cifar"}
    optim = {
        "name": "adamw",
        "lr": 3e-3,
        "lr_scaling": "none",
        "weight_decay": 1e-6,
        "warmup_steps": 500,
        "schedule": "step",
        "milestones": (950.0, 975.0),
        "decay": 0.2,
    }
    return common.cifar10({"name": "wmse", "view": view}, optim, epochs=1000, batch_size=512)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 4096, 100 epochs, four views, a head of three layers and sub-batches of 256,
    with SimCLR's LARS of 0.1 sqrt(batch), as in lightly's benchmarks/imagenet/resnet50/wmse.py but
    for the batch. Not run.
    """
    view = {"size": 224, "count": 4, "area": (0.2, 1.0), "recipe": "moco_v2"}
    objective = {"name": "wmse", "view": view, "projector": (1024, 1024, 128), "size": 256}
    optim = {
        "name": "lars",
        "lr": 0.1,
        "lr_scaling": "sqrt",
        "weight_decay": 1e-6,
        "warmup_epochs": 10.0,
    }
    return common.imagenet(objective, optim, epochs=100, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
