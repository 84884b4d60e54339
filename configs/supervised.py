"""Supervised."""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return common.pick(recipe, digits=digits, digits_few=digits_few)


def digits() -> ConfigDict:
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {"name": "supervised", "view": view, "label_smoothing": 0.1, "average": 0.99}
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05}
    return common.digits(objective, optim, steps=300, batch_size=128)


def digits_few() -> ConfigDict:
    config = digits()
    config.data.labelled = "5"
    config.optim.lr = 1e-3
    config.train = {"steps": 200, "batch_size": 50}
    config.optim.warmup_steps = 20
    return config
