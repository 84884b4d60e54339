"""SimCLR v2's distillation (2006.10029). TEACHER is a run of `supervised`, or a file.

ssl-jax train --config=simclr_v2_distillation:digits --workdir=W --config.train.teacher_from=TEACHER
ssl-jax train --config=simclr_v2_distillation:imagenet --workdir=W --data=folder:/imagenet/train \\
    --config.train.teacher_from=TEACHER
"""

from ml_collections import ConfigDict

from configs import common
from configs.simclr_v2 import imagenet_resnet50


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """The teacher is fine-tuned from simclr_v2:digits; `studies:simclr_v2_digits` has both."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    teacher = {"name": "resnet_small", "width": 16, "neck": (128,)}
    objective = {"name": "simclr_v2_distillation", "view": view, "teacher_backbone": teacher}
    return common.digits(objective, {"name": "adamw", "lr": 3e-3}, steps=300, batch_size=128)


def imagenet() -> ConfigDict:
    """ResNet-50 from ResNet-152 3x with selective kernels: 400 epochs, else as in pretraining, with
    crops and flips only.
    """
    pretraining = imagenet_resnet50()
    big = {"name": "resnet", "depth": 152, "width": 3, "sk_ratio": 0.0625, "neck": (6144,)}
    view = {"size": 224, "area": (0.08, 1.0), "recipe": "flip", "interpolation": "bicubic"}
    objective = {
        "name": "simclr_v2_distillation",
        "view": view,
        "teacher_backbone": big | {"dtype": "bfloat16"},
    }
    optim = dict(pretraining.optim) | {"warmup_epochs": 20.0}
    return common.imagenet(objective, optim, epochs=400, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=imagenet)
