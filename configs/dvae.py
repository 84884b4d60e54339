"""Discrete VAE, a tokenizer (2102.12092).

ssl-jax train --config=dvae:digits --workdir=W
ssl-jax train --config=dvae:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=dvae:imagenet --workdir=W --data=folder:/imagenet/train
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """32 codes in 4 x 4 places."""
    objective = {
        "name": "dvae",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5},
        "vocabulary": 32,
        "code_dim": 16,
        "likelihood": "squared",
        "temperature_steps": 200,
        "kl_weight": 0.05,
        "kl_steps": 200,
        "average": 0.99,
    }
    config = common.digits(objective, {"name": "adamw", "lr": 6e-3}, steps=250, batch_size=128)
    config.backbone = {"name": "discrete_vae", "layers": 2, "width": 16}
    return config


def cifar10() -> ConfigDict:
    """No published recipe: BEiT's class with 8 x 8 places and 1024 codes."""
    objective = {
        "name": "dvae",
        "view": {"size": 32, "area": (0.6, 1.0), "recipe": "dalle"},
        "vocabulary": 1024,
        "temperature_steps": 5000,
        "kl_steps": 5000,
    }
    optim = {"name": "adamw", "lr": 1e-3, "lr_scaling": "none", "weight_decay": 1e-4}
    config = common.cifar10(objective, optim, epochs=200, batch_size=512)
    config.backbone = {"name": "discrete_vae", "layers": 2, "width": 128, "dtype": "bfloat16"}
    return config


def imagenet() -> ConfigDict:
    """DALL-E's network and schedules at 256 px, batch 512, 3 million steps (appendix A.2). The
    learning rate falls over all of them, in the paper over the first 1.2 million.
    """
    optim: dict[str, Any] = {
        "name": "adamw",
        "lr": 1e-4,
        "lr_end": 1.25e-2,
        "lr_scaling": "none",
        "weight_decay": 1e-4,
        "warmup_epochs": 0.0,
    }
    config = common.imagenet({"name": "dvae"}, optim, epochs=0, batch_size=512)
    del config.train.epochs
    config.train.steps = 3_000_000
    config.backbone = {"name": "dalle"}
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
