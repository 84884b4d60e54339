"""Base configs of all recipes. A method's recipe adds its own keys to one of these."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.augment.chains import RECIPES
from ssl_jax.core.chain import Background
from ssl_jax.core.errors import UserError, suggest

# SGD with a step schedule, as for supervised networks and, later, pretext tasks: from the releases
# on CIFAR, and from mmselfsup and VISSL on ImageNet.
STEPS_CIFAR10: dict[str, Any] = {
    "name": "sgd",
    "nesterov": True,
    "lr": 0.1,
    "lr_scaling": "none",
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (60, 120, 160),
    "decay": 0.2,
}
STEPS_IMAGENET: dict[str, Any] = {
    "name": "sgd",
    "lr": 0.1,
    "weight_decay": 1e-4,
    "schedule": "step",
    "warmup_epochs": 5.0,
}

# SimCLR's views of ImageNet, for methods that differ from it by their loss.
SIMCLR_VIEW: dict[str, Any] = {
    "size": 224,
    "count": 2,
    "area": (0.08, 1.0),
    "recipe": "simclr",
    "interpolation": "bicubic",
}

# SimCLR's optimizer of ImageNet (section 2.2 and appendix B of the paper).
SIMCLR_LARS: dict[str, Any] = {
    "name": "lars",
    "lars_variant": "simclr",
    "lr": 0.3,
    "weight_decay": 1e-4,
    "warmup_epochs": 10.0,
}
# The releases of PixPro and PixContrast.
PIXEL_LARS: dict[str, Any] = {
    "name": "lars",
    "lars_variant": "pixpro",
    "lr": 1.0,
    "weight_decay": 1e-5,
    "warmup_epochs": 5.0,
    "lr_start": 0.01,
    "lr_end": 2.5e-7,
}
# InstDisc's released main.py; MoCo v1 and methods with a memory keep to it.
INSTDISC_SGD: dict[str, Any] = {
    "name": "sgd",
    "lr": 0.03,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (120.0, 160.0),
}
# The releases of DeepCluster and DeeperCluster.
CLUSTER_SGD: dict[str, Any] = {
    "name": "sgd",
    "lr": 0.05,
    "weight_decay": 1e-5,
    "schedule": "constant",
    "decay_rules": ((".*", 1.0),),
}

# For images of 16 px.
TINY_VIT: dict[str, Any] = {
    "name": "vit",
    "dim": 64,
    "heads": 4,
    "patch": 4,
    "image_size": 16,
}
# The loss trains the layer that the probe reads, the mean of the patches.
TINY_VIT_MEAN: dict[str, Any] = TINY_VIT | {
    "depth": 2,
    "position": "sincos_mocov3",
    "cls_token": False,
    "pool": "avg",
}
# For methods that hide patches behind a mask token, and their fine-tuning.
TINY_VIT_RELATIVE: dict[str, Any] = TINY_VIT | {
    "depth": 2,
    "position": "relative",
    "pool": "avg",
    "mask_token": True,
}
# For patches of 12 px.
LAYERNORM_RESNET: dict[str, Any] = {
    "name": "resnet_layernorm",
    "blocks": (1, 1, 1),
    "filters": (16, 32, 64),
    "widths": (32, 64, 128),
    "stem": "small",
}
# A chain for patches of digits in [0, 1].
DIGIT_PATCHES: dict[str, Any] = {
    "affine": {"rotation": 0.3, "log_scale": 0.2, "shear": 0.25, "shift": 0.1},
    "jitter": (0.4, 0.0, 0.0, 0.0),
    "jitter_p": 1.0,
    "noise": 0.1,
    "mean": (0.0,),
    "std": (1.0,),
}

# Measurements of the small forms of studies: five labels per class, all labels, neighbours.
QUICK_EVALS: dict[str, Any] = {
    "evals.protocols": ("fewshot", "linear", "knn"),
    "evals.fewshot.shots": (5,),
    "evals.fewshot.fractions": (),
    "evals.fewshot.draws": 5,
}


Recipe = Callable[[], ConfigDict]


@dataclasses.dataclass(frozen=True)
class Recipes:
    """Recipes that a config file offers: functions that build a config; METHOD:NAME is the
    function's name. `ssl-jax methods` lists them, tests and benchmarks take the ones they need.

    Attributes:
      small: learns on two CPU cores without a download.
      paper: the paper's main result.
      others: any further ones.
    """

    small: Recipe
    paper: Recipe
    others: tuple[Recipe, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of all recipes: the small one, the paper's, the others."""
        return [recipe.__name__ for recipe in (self.small, self.paper, *self.others)]

    def build(self, name: str) -> ConfigDict:
        """Build the config of one recipe.

        Raises:
          UserError: the recipe is unknown; the message lists all.
        """
        return pick(name, **{f.__name__: f for f in (self.small, self.paper, *self.others)})


def pick(recipe: str, **recipes: Callable[[], ConfigDict]) -> ConfigDict:
    """Build the config of one of `recipes`.

    Raises:
      UserError: the recipe is unknown; the message lists all.
    """
    if recipe not in recipes:
        raise UserError(f"unknown recipe {recipe!r}; {suggest(recipe, recipes)}")
    return recipes[recipe]()


def digits(
    objective: Mapping[str, Any], optim: Mapping[str, Any], steps: int, batch_size: int
) -> ConfigDict:
    """Build a config that takes minutes on a laptop, without a download: scikit-learn's 8x8 digits
    at 16 px and a ResNet of 77 k parameters.
    """
    return ConfigDict(
        {
            "objective": dict(objective),
            "backbone": {"name": "resnet_small", "width": 16},
            "data": {"train": "digits"},
            "optim": {"lr_scaling": "none", "warmup_steps": steps // 10} | dict(optim),
            "train": {"steps": steps, "batch_size": batch_size},
            "checkpoint": {"every": 100},
        }
    )


def two_views(objective: Mapping[str, Any], steps: int = 500) -> ConfigDict:
    """Build SimCLR's config `digits` for a method that differs from it by its loss."""
    view = {
        "size": 16,
        "count": 2,
        "area": (1.0, 1.0),
        "recipe": "digits",
        "strength": 0.8,
        "interpolation": "bilinear",
    }
    usual = {"view": view, "projector": (256, 128), "temperature": 0.2}
    optim = {"name": "adamw", "lr": 2e-3}
    return digits(usual | dict(objective), optim, steps=steps, batch_size=256)


def with_background(chain: str, **background: Any) -> dict[str, Any]:
    """Build the named chain with the replacement of backgrounds that these fields describe, for
    data with masks; see `ssl_jax.core.chain.Background`.
    """
    return dataclasses.asdict(
        dataclasses.replace(RECIPES[chain], background=Background(**background))
    )


def photos(
    objective: Mapping[str, Any], optim: Mapping[str, Any], steps: int, batch_size: int
) -> ConfigDict:
    """Build the config `digits` for colour images: crops of scikit-learn's two photographs."""
    config = digits(objective, optim, steps, batch_size)
    config.data.train = "photos"
    return config


def moving_digits(
    objective: Mapping[str, Any], optim: Mapping[str, Any], steps: int, batch_size: int
) -> ConfigDict:
    """Build the config `digits` for clips: digits that move over photographs, 32 px."""
    config = digits(objective, optim, steps, batch_size)
    config.data.train = "moving_digits"
    return config


def cifar10(
    objective: Mapping[str, Any], optim: Mapping[str, Any], epochs: int, batch_size: int
) -> ConfigDict:
    """Build a config for one GPU or a small slice: 32 px, ResNet-18, 3x3 stem. Set --data."""
    return ConfigDict(
        {
            "objective": dict(objective),
            "backbone": {"name": "resnet", "depth": 18, "stem": "cifar", "dtype": "bfloat16"},
            "data": {"train": ""},
            "optim": dict(optim),
            "train": {"epochs": epochs, "batch_size": batch_size, "log_every": 50},
            "checkpoint": {"every": 2000},
            "evals": {"every": 5000, "max_train": 50000, "knn": {"k": 200, "temperature": 0.1}},
        }
    )


def cifar10_cpu(
    objective: Mapping[str, Any], optim: Mapping[str, Any], steps: int, batch_size: int
) -> ConfigDict:
    """Build a config for CIFAR-10 on a CPU: the network of `digits`, images kept in memory. Set
    --data and --eval_data.
    """
    config = digits(objective, optim, steps, batch_size)
    config.data = {"train": "", "cache": "device"}
    config.train.log_every = 20
    config.checkpoint.every = 500
    config.evals = {
        "every": 100_000,
        "max_train": 50_000,
        "knn": {"k": 200, "temperature": 0.1},
        "fewshot": {"draws": 5},
        "clustering": {"runs": 1},
    }
    return config


def imagenet(
    objective: Mapping[str, Any], optim: Mapping[str, Any], epochs: int, batch_size: int
) -> ConfigDict:
    """Build the paper's main recipe for a pod slice: 224 px, ResNet-50. Set --data."""
    return ConfigDict(
        {
            "objective": dict(objective),
            "backbone": {"name": "resnet", "depth": 50, "dtype": "bfloat16"},
            "data": {"train": ""},
            "optim": dict(optim),
            "train": {"epochs": epochs, "batch_size": batch_size, "log_every": 50},
            "checkpoint": {"every": 1000, "keep": 3},
            "evals": {"every": 10000, "max_train": 50000, "knn": {"k": 200}},
        }
    )


def alexnet(
    objective: Mapping[str, Any], optim: Mapping[str, Any], epochs: int, batch_size: int
) -> ConfigDict:
    """Build the config `imagenet` with the network of early pretext tasks. `ssl-jax evaluate
    --eval=linear` measures its five convolutions as those papers do.
    """
    config = imagenet(objective, optim, epochs, batch_size)
    config.backbone = {"name": "alexnet", "dtype": "bfloat16"}
    config.evals.linear = {"preset": "colorization", "pool": "large_grid"}
    return config
