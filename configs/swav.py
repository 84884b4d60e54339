"""SwAV (2006.09882).

ssl-jax train --config=swav:digits --workdir=W
ssl-jax train --config=swav:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=swav:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Weak augmentation, and prototypes frozen at first; with stronger views the loss stays at log
    K, the uniform distribution.
    """
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.4}
    objective = {
        "name": "swav",
        "views": (view,),
        "projector": (256, 128),
        "prototypes": 32,
        "epsilon": 0.03,
        "freeze_epochs": 5.5,
    }
    optim = {"name": "sgd", "lr": 0.1, "weight_decay": 1e-4}
    return common.digits(objective, optim, steps=400, batch_size=128)


def cifar10() -> ConfigDict:
    """lightly's CIFAR-10 benchmark: two crops without blur, 512 prototypes, Adam."""
    view = {"size": 32, "count": 2, "area": (0.08, 1.0), "recipe": "simclr_cifar"}
    objective = {"name": "swav", "views": (view,), "projector": (2048, 128), "prototypes": 512}
    optim = {"name": "adamw", "lr": 5e-4, "weight_decay": 1e-6}
    return common.cifar10(objective, optim, epochs=200, batch_size=512)


def imagenet() -> ConfigDict:
    """ResNet-50, 2x224 + 6x96, batch 4096, 800 epochs (scripts/swav_800ep_pretrain.sh)."""
    objective = {"name": "swav"}
    optim = _larc() | {"lr": 0.3, "warmup_epochs": 10.0, "warmup_inclusive": True}
    optim |= {"lr_start": 0.3 / 4.8}
    return common.imagenet(objective, optim, epochs=800, batch_size=4096)


def imagenet_256() -> ConfigDict:
    """Batch 256 with a queue, 400 epochs (scripts/swav_400ep_bs256_pretrain.sh)."""
    objective = {"name": "swav", "queue_size": 3840}
    return common.imagenet(objective, _larc() | {"lr": 0.6}, epochs=400, batch_size=256)


def imagenet_backgrounds() -> ConfigDict:
    """BG_Random (2103.12719, see background_augmentation). Set --config.data.masks."""
    config = imagenet()
    large = {"size": 224, "count": 2, "area": (0.14, 1.0)}
    small = {"size": 96, "count": 6, "area": (0.05, 0.14)}
    chain = {"recipe": common.with_background("swav")}
    config.objective.views = (large | chain, small | chain)
    return config


def _larc() -> dict:
    return {"name": "lars", "lars_variant": "apex", "lr_end": 1e-3, "weight_decay": 1e-6}


RECIPES = common.Recipes(
    small=digits, paper=imagenet, others=(cifar10, imagenet_256, imagenet_backgrounds)
)
