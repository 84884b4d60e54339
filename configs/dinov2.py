"""DINOv2 (2304.07193).

ssl-jax train --config=dinov2:digits --workdir=W
ssl-jax train --config=dinov2:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=dinov2:imagenet_high_resolution --workdir=W2 --data=folder:/imagenet/train \
    --config.train.init_from=W
ssl-jax train --config=dinov2:imagenet_giant --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=dinov2:imagenet_short --workdir=W --data=folder:/imagenet/train

DINOv3's Gram anchoring, here from the start, against the network of an earlier run V:
ssl-jax train --config=dinov2:imagenet_high_resolution --workdir=W2 --data=folder:/imagenet/train \
    --config.train.init_from=V --config.objective.gram_weight=2 --config.objective.gram_from=0 \
    --config.objective.gram_start=0
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """A tiny ViT, with batch norm in the head and little KoLeo: without that norm, the loss of
    images stays at log K while KoLeo spreads the features of crops.
    """
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "dinov2",
        "views": (view,),
        "prototypes": 64,
        "patch_prototypes": 64,
        "head_norm": "batch",
        "hidden_dim": 256,
        "bottleneck_dim": 64,
        "temperature": 0.04,
        "warmup_epochs": 0,
        "momentum": 0.98,
        "koleo_weight": 0.02,
    }
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.04}
    config = common.digits(objective, optim, steps=300, batch_size=128)
    config.backbone = common.TINY_VIT_MEAN | {"mask_token": True, "registers": 2}
    return config


def imagenet() -> ConfigDict:
    """ViT-L/14 with registers, 2x224 + 8x98, batch 3072, 625,000 steps (vitl14.yaml of the
    release). Its data are ImageNet-22k, and its epochs are of 1250 steps, 3 of ImageNet-1k's. The
    groups are of 48 images, to split over 64 chips; the release's are of 32. As released, all
    arrays of the state are split over all chips.
    """
    objective = {"name": "dinov2", "warmup_epochs": 90, "freeze_epochs": 3.0, "batch_groups": 64}
    config = _config(objective, _adamw(3072, 2e-4, 0.2), steps=625_000, batch_size=3072)
    config.optim.warmup_steps = 100_000
    config.backbone = _vit("large", 14, 224) | {"mlp": "swiglu", "remat": "full"}
    config.mesh = {"data": 1, "fsdp": -1}
    return config


def imagenet_high_resolution() -> ConfigDict:
    """The end of the training: 10,000 steps with large crops of 518 px, and all schedules shortened
    to that (appendix B.2 of the paper, which reduces the rate without a number: ours is a tenth).
    Set `train.init_from` to a run of `imagenet`.
    """
    config = imagenet()
    chains = ("dino_1", "dino_2")
    large = {"size": 518, "area": (0.32, 1.0), "interpolation": "bicubic"}
    small = {"size": 98, "count": 8, "area": (0.05, 0.32), "recipe": "dino_local"}
    small |= {"interpolation": "bicubic"}
    config.objective.views = (*(large | {"recipe": chain} for chain in chains), small)
    config.objective.update({"warmup_epochs": 1, "freeze_epochs": 0.05})
    config.optim.update({"lr": config.optim.lr / 10, "warmup_steps": 1600})
    config.train.steps = 10_000
    config.backbone.image_size = 518
    return config


def imagenet_giant() -> ConfigDict:
    """ViT-g/14 (vitg14.yaml); groups of 12 images."""
    config = imagenet()
    config.objective.batch_groups = 256
    config.backbone.size = "giant2"
    return config


def imagenet_short() -> ConfigDict:
    """ViT-L/16, 2x224 + 8x96, batch 2048, 125,000 steps: the release's default, for which it states
    81.6 (k nearest neighbours) and 82.9 % (linear).
    """
    large = {"size": 224, "area": (0.32, 1.0), "interpolation": "bicubic"}
    small = {"size": 96, "count": 8, "area": (0.05, 0.32), "interpolation": "bicubic"}
    objective = {
        "name": "dinov2",
        "views": (
            large | {"recipe": "dino_1"},
            large | {"recipe": "dino_2"},
            small | {"recipe": "dino_local"},
        ),
        "prototypes": 65536,
        "patch_prototypes": None,
        "bottleneck_dim": 256,
        "centering": "mean",
        "momentum": 0.992,
        "warmup_epochs": 60,
        "freeze_epochs": 2.0,
        "batch_groups": 32,
    }
    config = _config(objective, _adamw(2048, 4e-3, 0.4), steps=125_000, batch_size=2048)
    config.optim.update({"warmup_steps": 12_500, "layer_decay": 0.9})
    config.backbone = _vit("large", 16, 224) | {"drop_path": 0.3, "registers": 0}
    config.backbone.update({"interpolate_antialias": False, "interpolate_offset": 0.1})
    config.backbone.remat = "full"
    config.mesh = {"data": 1, "fsdp": -1}
    return config


def _adamw(batch: int, lr: float, decay: float) -> dict[str, Any]:
    """Build the release's optimizer from its rate for a batch of 1024."""
    return {
        "name": "adamw",
        "lr": lr / 32,
        "lr_scaling": "sqrt",
        "lr_end": 1e-6 / (lr * (batch / 1024) ** 0.5),
        "lr_rules": (("^backbone/patch_embed/", 0.2), (".*", 1.0)),
        "weight_decay": 0.04,
        "weight_decay_end": decay,
        "warmup_inclusive": True,
        "clip_per_network": 3.0,
    }


def _vit(size: str, patch: int, image_size: int) -> dict[str, Any]:
    return {
        "name": "vit",
        "size": size,
        "patch": patch,
        "image_size": image_size,
        "mask_token": True,
        "registers": 4,
        "layer_scale": 1e-5,
        "drop_path": 0.4,
        "drop_path_uniform": True,
        "drop_path_groups": 256,  # the chips of a slice up to 256 divide it
        "interpolate_antialias": True,
        "dtype": "bfloat16",
    }


def _config(objective: dict[str, Any], optim: dict[str, Any], steps: int, batch_size: int) -> Any:
    """Build `common.imagenet` for a number of steps."""
    config = common.imagenet(objective, optim, epochs=0, batch_size=batch_size)
    del config.train.epochs
    config.train.steps = steps
    return config


RECIPES = common.Recipes(
    small=digits,
    paper=imagenet,
    others=(imagenet_high_resolution, imagenet_giant, imagenet_short),
)
