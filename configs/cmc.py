"""CMC (1906.05849).

ssl-jax train --config=cmc:photos --workdir=W
ssl-jax train --config=cmc:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=cmc:cifar10_cpu --workdir=W --data=npz:train.npz --eval_data=npz:test.npz \\
    --config.data.fraction=0.05
ssl-jax train --config=cmc:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def photos() -> ConfigDict:
    """Colour is the method, so digits will not do; 900 images need no estimate of the softmax."""
    objective = {
        "name": "cmc",
        "view": {"size": 16, "area": (0.3, 1.0), "recipe": "cmc"},
        "projector": (64,),
        "negatives": 0,
        "temperature": 0.1,
        "width": 1.0,
    }
    optim = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4}
    return common.photos(objective, optim, steps=600, batch_size=128)


def cifar10() -> ConfigDict:
    """No published recipe: the released main.py's schedule with InstDisc's on CIFAR."""
    objective = {
        "name": "cmc",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "cmc"},
        "negatives": 4096,
    }
    return common.cifar10(objective, _sgd() | {"weight_decay": 5e-4}, epochs=240, batch_size=128)


def cifar10_cpu() -> ConfigDict:
    """Minutes on one CPU core, with `--config.data.fraction=0.05`: 2,500 images are 20 steps per
    epoch, so the memories do not get old, and the softmax over all of them needs no estimate.
    """
    objective = {
        "name": "cmc",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "cmc"},
        "projector": (64,),
        "negatives": 0,
        "temperature": 0.1,
        "width": 1.0,
    }
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "warmup_steps": 50}
    return common.cifar10_cpu(objective, optim, steps=900, batch_size=128)


def imagenet() -> ConfigDict:
    """The released train_CMC.py: two ResNet-50 of half the width, 16,384 negatives, 240 epochs."""
    objective = {"name": "cmc"}
    return common.imagenet(objective, _sgd(), epochs=240, batch_size=128)


def _sgd() -> dict[str, Any]:
    return {
        "name": "sgd",
        "lr": 0.03,
        "lr_scaling": "none",
        "weight_decay": 1e-4,
        "schedule": "step",
        "milestones": (120.0, 160.0, 200.0),
        "decay_rules": ((".*", 1.0),),
    }


RECIPES = common.Recipes(small=photos, paper=imagenet, others=(cifar10, cifar10_cpu))
