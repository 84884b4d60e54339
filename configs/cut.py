"""CUT and FastCUT (2007.15651). The training set is the source domain; the target domain is
data.streams.target.

ssl-jax train --config=cut:digits --workdir=W
ssl-jax train --config=cut:photo2sketch --workdir=W --data=folder:photo2sketch/trainA \
  --config.data.streams.target=folder:photo2sketch/trainB
ssl-jax train --config=cut:horse2zebra --workdir=W --data=folder:horse2zebra/trainA \
  --config.data.streams.target=folder:horse2zebra/trainB
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

# Adam of the release. The default `eps` and no decay, as there.
ADAM: dict[str, Any] = {
    "name": "adamw",
    "lr": 2e-4,
    "lr_scaling": "none",
    "b1": 0.5,
    "schedule": "linear",
}


def get_config(recipe: str = "horse2zebra") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """White digits on black become black digits on white."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": {"mean": (0.5,), "std": (0.5,)}}
    objective = {
        "name": "cut",
        "view": view,
        "layers": ("image", "down1", "down2", "block1", "block2"),
        "patches": 64,
        "patch_width": 32,
        "discriminator_width": 16,
        "discriminator_layers": 1,
    }
    optim = ADAM | {"lr": 1e-3, "warmup_steps": 0, "constant_epochs": 3.0}
    config = common.digits(objective, optim, steps=500, batch_size=16)
    config.backbone = {"name": "resnet_generator", "blocks": 2, "width": 16}
    config.data.streams = {"target": "digits:inverted"}
    config.checkpoint.every = 250
    config.evals = {"protocols": ("diagnostics", "knn", "translation")}
    return config


def photo2sketch() -> ConfigDict:
    """Photographs become line sketches at 64 px, in CPU minutes."""
    view = {
        "size": 64,
        "area": ((64 / 72) ** 2, (64 / 72) ** 2),
        "recipe": "cut",
        "crop": "same_aspect",
    }
    objective = {
        "name": "cut",
        "view": view,
        "layers": ("image", "down1", "down2", "block1", "block4"),
        "patches": 128,
        "patch_width": 128,
        "discriminator_width": 24,
        "discriminator_layers": 2,
    }
    optim = ADAM | {"lr": 4e-4, "constant_epochs": 4.0}
    config = horse2zebra()
    config.objective, config.optim = objective, optim
    config.backbone = {"name": "resnet_generator", "blocks": 4, "width": 16}
    config.checkpoint.every = 440
    config.evals = {"protocols": ("diagnostics", "translation")}
    config.train = {"epochs": 8, "batch_size": 1, "log_every": 50}
    return config


def horse2zebra() -> ConfigDict:
    """The release's defaults: 256 px, batches of one image, 400 epochs."""
    optim = ADAM | {"constant_epochs": 200.0}
    config = common.imagenet({"name": "cut"}, optim, epochs=400, batch_size=1)
    config.backbone = {"name": "resnet_generator"}
    config.data.streams = {"target": ""}
    config.evals = {"every": -1}
    return config


def horse2zebra_fastcut() -> ConfigDict:
    """FastCUT: no identity term, a stronger PatchNCE, mirrored batches, 200 epochs."""
    config = horse2zebra()
    config.objective.update({"nce_weight": 10.0, "identity": False, "mirror": 0.5})
    config.optim.constant_epochs = 150.0
    config.train.epochs = 200
    return config


RECIPES = common.Recipes(
    small=digits, paper=horse2zebra, others=(horse2zebra_fastcut, photo2sketch)
)
