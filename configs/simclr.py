"""SimCLR (2002.05709).

ssl-jax train --config=simclr:digits --workdir=W
ssl-jax train --config=simclr:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=simclr:cifar10_cpu --workdir=W --data=npz:train.npz --eval_data=npz:test.npz
ssl-jax train --config=simclr:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    return common.two_views({"name": "simclr"})


def cifar10() -> ConfigDict:
    """The release's CIFAR-10 command (README of google-research/simclr), 1000 epochs."""
    view = {
        "size": 32,
        "count": 2,
        "area": (0.08, 1.0),
        "recipe": "simclr_cifar",
        "interpolation": "bilinear",
    }
    objective = {"name": "simclr", "view": view, "projector": (512, 512, 128), "temperature": 0.5}
    optim = {
        "name": "lars",
        "lars_variant": "simclr",
        "lr": 1.0,
        "weight_decay": 1e-4,
        "warmup_epochs": 10.0,
    }
    return common.cifar10(objective, optim, epochs=1000, batch_size=512)


def cifar10_cpu() -> ConfigDict:
    """An hour on one CPU core: 25 epochs of a ResNet of 77 k parameters (docs/performance.md)."""
    view = {
        "size": 32,
        "count": 2,
        "area": (0.2, 1.0),
        "recipe": "simclr_cifar",
        "interpolation": "bilinear",
    }
    objective = {"name": "simclr", "view": view, "projector": (256, 128), "temperature": 0.2}
    optim = {"name": "adamw", "lr": 2e-3, "warmup_steps": 200}
    return common.cifar10_cpu(objective, optim, steps=5000, batch_size=256)


def imagenet() -> ConfigDict:
    """ResNet-50, batch 4096, LARS 0.3 per 256 (section 2.2 and appendix B of the paper)."""
    objective = {"name": "simclr"}
    optim = common.SIMCLR_LARS
    return common.imagenet(objective, optim, epochs=1000, batch_size=4096)


def imagenet_sqrt() -> ConfigDict:
    """The same with a learning rate of 0.075 sqrt(batch), which the paper's appendix B.1 finds
    better for smaller batches and shorter runs; at batch 4096 both are equal.
    """
    config = imagenet()
    config.optim.update({"lr": 0.075, "lr_scaling": "sqrt"})
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, cifar10_cpu, imagenet_sqrt))
