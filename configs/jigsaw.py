"""Jigsaw (1603.09246).

ssl-jax train --config=jigsaw:digits --workdir=W
ssl-jax train --config=jigsaw:moving_digits --workdir=W
ssl-jax train --config=jigsaw:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=jigsaw:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=jigsaw:imagenet_alexnet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """All 24 orders of 2 x 2 tiles of 7 px, four orders per image. Without strong distortions the
    positions of the tiles are learned too fast. Tiles are not standardised, since the whole images
    that are probed are not either.
    """
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits_upright", "strength": 1.2}
    objective = {
        "name": "jigsaw",
        "view": view,
        "rows": 2,
        "tile": 7,
        "permutations": 24,
        "puzzles": 4,
        "standardize": False,
        "embedding": 128,
        "hidden": (256,),
    }
    return common.digits(objective, {"name": "adamw", "lr": 5e-3}, steps=1500, batch_size=128)


def moving_digits() -> ConfigDict:
    """All 24 orders of 2 x 2 tiles of 13 px of frames of 32 px with an object, the digit."""
    objective = {
        "name": "jigsaw",
        "view": {"size": 32, "area": (1.0, 1.0), "recipe": "normalize"},
        "rows": 2,
        "tile": 13,
        "permutations": 24,
        "puzzles": 4,
        "standardize": False,
        "embedding": 128,
        "hidden": (256,),
    }
    return common.moving_digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=128)


def cifar10() -> ConfigDict:
    """No published recipe: 2 x 2 tiles of 12 px, all 24 orders; RotNet's schedule."""
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "patches"}
    objective = {
        "name": "jigsaw",
        "view": view,
        "rows": 2,
        "tile": 12,
        "permutations": 24,
        "embedding": 512,
        "hidden": (1024,),
    }
    return common.cifar10(objective, common.STEPS_CIFAR10, epochs=200, batch_size=128)


def imagenet() -> ConfigDict:
    """ResNet-50, 2000 permutations, 105 epochs (VISSL, configs/config/pretrain/jigsaw)."""
    optim = common.STEPS_IMAGENET | {"milestones": (30, 60, 90, 100)}
    return common.imagenet({"name": "jigsaw"}, optim, epochs=105, batch_size=256)


def imagenet_alexnet() -> ConfigDict:
    """The released solver (350,000 steps of 256, a tenth of the rate every 100,000), 1000
    permutations and fc6 and fc7. conv1 has the stride 4 that the release has on whole images; on
    tiles it has 2 there.
    """
    optim = {
        "name": "sgd",
        "lr": 0.01,
        "lr_scaling": "none",
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (20, 40, 60),
    }
    objective = {"name": "jigsaw", "permutations": 1000, "embedding": 1024, "hidden": (4096,)}
    return common.alexnet(objective, optim, epochs=70, batch_size=256)


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(moving_digits, cifar10, imagenet_alexnet)
)
