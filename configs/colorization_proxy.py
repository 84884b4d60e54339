"""Colorization as a proxy task (1703.04044).

ssl-jax train --config=colorization_proxy:photos --workdir=W
ssl-jax train --config=colorization_proxy:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=colorization_proxy:cifar10_cpu --workdir=W --data=npz:train.npz \\
    --eval_data=npz:test.npz
ssl-jax train --config=colorization_proxy:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def photos() -> ConfigDict:
    """Histograms of 3 x 3 pixels at 32 positions of views of 16 px."""
    view = {"size": 16, "area": (0.3, 1.0), "recipe": "hue_chroma"}
    sizes = {"positions": 32, "border": 1, "window": 3, "hidden": 64}
    objective = {"name": "colorization_proxy", "view": view} | sizes
    return common.photos(objective, {"name": "adamw", "lr": 2e-3}, steps=800, batch_size=64)


def cifar10() -> ConfigDict:
    """No published recipe: a ResNet-18, histograms of 3 x 3 pixels at 64 positions."""
    optim = {"name": "adamw", "lr": 1e-3, "lr_scaling": "none", "weight_decay": 0.05}
    return common.cifar10(_objective(hidden=512), optim, epochs=200, batch_size=128)


def cifar10_cpu() -> ConfigDict:
    """One epoch, three CPU minutes. Measured (JPEG copies, seed 0, the command above): nearest
    neighbours .345, untrained .282, raw pixels .309; 5 labels per class .222, .157 and .203.
    """
    optim = {"name": "adamw", "lr": 2e-3}
    return common.cifar10_cpu(_objective(hidden=64), optim, steps=400, batch_size=128)


def imagenet() -> ConfigDict:
    """ResNet-50 in place of the paper's ResNet-152, ten epochs; the solver of autocolorize (1e-3
    at batches of 8, scaled to 128), its milestones at the same shares of the run.
    """
    optim = {
        "name": "sgd",
        "lr": 0.016,
        "lr_scaling": "none",
        "weight_decay": 5e-4,
        "schedule": "step",
        "milestones": (5.0, 7.5, 8.75),
        "decay": 0.1,
    }
    return common.imagenet({"name": "colorization_proxy"}, optim, epochs=10, batch_size=128)


def _objective(hidden: int) -> dict[str, Any]:
    view = {"size": 32, "area": (0.6, 1.0), "recipe": "hue_chroma"}
    sizes = {"positions": 64, "border": 2, "window": 3, "hidden": hidden}
    return {"name": "colorization_proxy", "view": view} | sizes


RECIPES = common.Recipes(small=photos, paper=imagenet, others=(cifar10, cifar10_cpu))
