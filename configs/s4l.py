"""S4L (1905.03670). The training set is the labelled one; data.streams.unlabelled is the other.

ssl-jax train --config=s4l:digits --workdir=W
ssl-jax train --config=s4l:imagenet --workdir=W --data=folder:/imagenet/train \
  --config.data.streams.unlabelled=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """S4L-Exemplar with five labels per class, and crops of one image as a class on all digits. Not
    rotation: a rotated 6 is a 9.
    """
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.7}
    objective = {"name": "s4l", "view": view, "task": "exemplar", "embedding": 64}
    config = common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=400, batch_size=50)
    config.data = {"train": "digits", "labelled": "5", "streams": {"unlabelled": "digits"}}
    return config


def digits_moam() -> ConfigDict:
    """The same with VAT, EntMin and an average of the weights: the first step of
    `studies:moam_digits`.
    """
    config = digits()
    config.objective.view["recipe"] = "digits_upright"
    weights = {"weight": 0.5, "vat": 0.5, "entropy": 0.5}
    config.objective.update(weights | {"epsilon": 3.0, "average": 0.98})
    return config


def imagenet() -> ConfigDict:
    """S4L-Rotation with 10 % of the labels: 200 epochs of the labelled images (the release's
    config/s4l_rotation).
    """
    optim = {
        "name": "sgd",
        "lr": 0.03,
        "lr_scaling": "none",
        "weight_decay": 1e-3,
        "schedule": "step",
        "warmup_epochs": 5.0,
        "milestones": (140, 160, 180),
    }
    config = common.imagenet({"name": "s4l"}, optim, epochs=200, batch_size=256)
    config.data.labelled = "10%"
    config.data.streams = {"unlabelled": ""}
    return config


def imagenet_exemplar() -> ConfigDict:
    """S4L-Exemplar: eight crops per image with colour noise, and another schedule."""
    config = imagenet()
    config.objective.update(
        {
            "task": "exemplar",
            "color_noise": True,
            "view": {"size": 224, "count": 8, "area": (0.08, 1.0), "recipe": "s4l"},
        }
    )
    config.optim.update({"lr": 0.1, "warmup_epochs": 10.0})
    return config


def imagenet_vat() -> ConfigDict:
    """VAT + EntMin, with the schedule of the supervised baseline."""
    config = imagenet()
    config.objective.update({"task": "none", "vat": 0.5, "entropy": 1.0})
    config.optim.update({"lr": 0.1, "lr_scaling": "linear"})
    return config


def imagenet_moam() -> ConfigDict:
    """The first step of the mix of all models, a ResNet-50 4x: rotation, VAT and EntMin together
    (the release's config/moam); `studies:moam` has all three.
    """
    config = imagenet()
    weights = {"label_weight": 0.3, "vat": 0.3, "weight": 0.4, "entropy": 0.3}
    config.objective.update(weights | {"epsilon": 32.0, "average": 0.9999})
    config.backbone.width = 4
    config.optim.update(
        {
            "lr": 0.2,
            "lr_scaling": "linear",
            "weight_decay": 2e-4,
            "warmup_epochs": 10.0,
            "milestones": (100, 150, 190),
        }
    )
    config.train.batch_size = 128
    return config


RECIPES = common.Recipes(
    small=digits,
    paper=imagenet,
    others=(digits_moam, imagenet_exemplar, imagenet_vat, imagenet_moam),
)
