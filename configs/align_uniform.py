"""Alignment and uniformity (2005.10242).

ssl-jax train --config=align_uniform:digits --workdir=W
ssl-jax train --config=align_uniform:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=align_uniform:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "cifar10") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.8}
    objective = {"name": "align_uniform", "view": view, "projector": (128,)}
    return common.digits(objective, {"name": "adamw", "lr": 0.002}, steps=500, batch_size=256)


def cifar10() -> ConfigDict:
    """The released STL-10 recipe (batch 768, 200 epochs, SGD 0.12 per 256) at 32 px with
    ResNet-18; it used an AlexNet at 64 px.
    """
    view = {"size": 32, "count": 2, "area": (0.08, 1.0), "recipe": "instdisc"}
    optim = {
        "name": "sgd",
        "lr": 0.12,
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": (155.0, 170.0, 185.0),
        "decay_rules": ((".*", 1.0),),
    }
    objective = {"name": "align_uniform", "view": view}
    return common.cifar10(objective, optim, epochs=200, batch_size=768)


def imagenet() -> ConfigDict:
    """SimCLR's batch, views, LARS and head for 100 epochs: ours. The paper's ImageNet run uses a
    queue: `moco_align_uniform:imagenet`. Not run.
    """
    objective = {"name": "align_uniform", "view": common.SIMCLR_VIEW, "projector": (2048, 128)}
    optim = common.SIMCLR_LARS | {"weight_decay": 1e-6}
    return common.imagenet(objective, optim, epochs=100, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=cifar10, others=(imagenet,))
