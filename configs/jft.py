"""JFT (1707.02968): many noisy labels per image.

ssl-jax train --config=jft:digits --workdir=W
ssl-jax train --config=jft:jft300m --workdir=W --data=parquet:/jft \\
    --config.data.hierarchy=parents.csv
ssl-jax study --study=studies:jft_digits --workdir=S --fit=data.fraction
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "jft300m") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Digits, odd and even, small and large; a fifth of the digits is wrong."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {"name": "jft", "view": view, "labels": 4, "positives": 3.0}
    config = common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=200, batch_size=128)
    config.data.train = "noisy_digits"
    return config


def jft300m() -> ConfigDict:
    """ResNet-101 at 299 px for 4 epochs of 300M images. The paper trains by asynchronous RMSProp on
    50 GPUs; this is synchronous AdamW with warmup and a cosine, not a published recipe. Its crops
    of 299 px from 340 also vary in aspect ratio here.
    """
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup_steps": 10_000}
    config = common.imagenet({"name": "jft"}, optim, epochs=4, batch_size=4096)
    config.backbone.depth = 101
    return config


RECIPES = common.Recipes(small=digits, paper=jft300m)
