"""Supervised baselines and fine-tuning.

ssl-jax train --config=supervised:digits --workdir=W --config.data.fold=1/5
ssl-jax train --config=supervised:digits_few --workdir=W --config.train.init_from=PRETRAINED
ssl-jax train --config=supervised:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=supervised:imagenet --workdir=W --data=folder:/imagenet/train
ssl-jax train --config=supervised:imagenet_vit_base --workdir=W --data=folder:/imagenet/train \\
    --eval_data=folder:/imagenet/val --config.train.init_from=PRETRAINED
ssl-jax train --config=supervised:voc07 --workdir=W --data=voc:VOCdevkit/VOC2007 \\
    --config.train.init_from=PRETRAINED

PRETRAINED is the folder of a run; `backbone` must describe the same network. Only the digits
recipes were run (docs/finetuning.md). Unlike in MAE's release, positions stay fixed where they were
fixed in pretraining, and the norm before the head starts as the pretrained one.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

ACCURACY = {"every": 10_000, "protocols": ("classifier",), "max_eval": 50_000}
# No decay of biases, norms, LayerScale, tokens and positions (timm's no_weight_decay).
DECAY = ((r"(bias|scale|gamma\d|pos_embed|cls_token)$", 0.0), (".*", 1.0))
MIXING = {"label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "erase": 0.25}


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.5}
    objective = {"name": "supervised", "view": view, "label_smoothing": 0.1, "average": 0.99}
    optim = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05}
    return common.digits(objective, optim, steps=300, batch_size=128)


def digits_few() -> ConfigDict:
    """Five labels per class, from a pretrained encoder (`train.init_from`) or from scratch."""
    config = digits()
    config.data.labelled = "5"
    config.optim.update({"lr": 1e-3, "warmup_steps": 20})
    config.train = {"steps": 200, "batch_size": 50}
    return config


def digits_few_vit() -> ConfigDict:
    """The same with the ViT of `beit:digits` and `data2vec:digits`."""
    config = digits_few()
    config.backbone = common.TINY_VIT_RELATIVE
    return config


def cifar10() -> ConfigDict:
    """Wide ResNet's schedule (1605.07146) on a ResNet-18; crops are resized, not padded."""
    view = {"size": 32, "area": (0.2, 1.0), "recipe": "mae"}
    config = common.cifar10(_objective(view), common.STEPS_CIFAR10, epochs=200, batch_size=128)
    config.evals = ACCURACY
    return config


def imagenet() -> ConfigDict:
    """ResNet-50 in 90 epochs (He et al. 2015), with the learning rate per 256, the warmup and the
    initialization of Goyal et al. 2017 (1706.02677), who report 76.4 % at batch 1024 in table 1.
    """
    optim = common.STEPS_IMAGENET | {"nesterov": True, "milestones": (30.0, 60.0, 80.0)}
    return _imagenet(_objective(_view()), optim, epochs=90, batch_size=1024)


def imagenet_vit_base() -> ConfigDict:
    """MAE's fine-tuning of ViT-B/16 (2111.06377, table 9 and the release), from a run of
    mae:imagenet with backbone.size='base'.
    """
    return _mae("base", lr=5e-4, layer_decay=0.65, drop_path=0.1, epochs=100)


def imagenet_vit_large() -> ConfigDict:
    """The same for ViT-L/16, from a run of mae:imagenet."""
    return _mae("large", lr=1e-3, layer_decay=0.75, drop_path=0.2, epochs=50)


def imagenet_beit_base() -> ConfigDict:
    """BEiT's fine-tuning of ViT-B/16 (2106.08254 and the release). Relative positions are one table
    for all blocks, as in its pretraining; the release gives each block a copy.
    """
    optim = _adamw(4e-3, warmup_epochs=20.0) | {"lr_scaling": "none", "layer_decay": 0.65}
    objective = _objective(_view("bicubic", "finetune_beit"), head_init="normal2e-5", **MIXING)
    config = _imagenet(objective, optim, epochs=100, batch_size=1024)
    config.backbone = _vit("base", 0.1) | {"position": "relative", "layer_scale": 0.1}
    return config


def imagenet_1pct() -> ConfigDict:
    """SwAV's fine-tuning of ResNet-50 with 1 % of the labels (2006.09882, the release); drawn at
    random from each class, not SimCLR's list.
    """
    return _swav("1%", trunk=0.02, head=5.0)


def imagenet_10pct() -> ConfigDict:
    """The same with 10 % of the labels."""
    return _swav("10%", trunk=0.01, head=0.2)


def imagenet_1pct_simclr_v2() -> ConfigDict:
    """SimCLR v2's fine-tuning with 1 % of the labels (2006.10029, section 3 and the release), but
    from the encoder, not from the first layer of its projector; labels as in `imagenet_1pct`.
    """
    return _simclr_v2("1%", epochs=60)


def imagenet_10pct_simclr_v2() -> ConfigDict:
    """The same with 10 % of the labels."""
    return _simclr_v2("10%", epochs=30)


def voc07() -> ConfigDict:
    """Fine-tuning of ResNet-50 to VOC07's classes (Kornblith et al., 1805.08974, and SimCLR,
    2002.05709, appendix B.8). The papers choose the rate and the decay from grids, of which these
    are one point, and SimCLR gives batch norm a shorter memory. Each class is a sigmoid.
    """
    optim = {
        "name": "sgd",
        "lr": 0.01,
        "lr_scaling": "none",
        "nesterov": True,
        "weight_decay": 1e-3,
    }
    config = _imagenet(_objective(_view(), labels=20), optim, epochs=1, batch_size=256)
    config.train = {"steps": 20_000, "batch_size": 256, "log_every": 50}
    return config


def _objective(view: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "supervised", "view": view} | more


def _view(interpolation: str = "bilinear", recipe: str = "mae") -> dict[str, Any]:
    """A view of crops and flips, plus the other operations of the augmentation chain."""
    return {
        "size": 224,
        "area": (0.08, 1.0),
        "recipe": recipe,
        "interpolation": interpolation,
    }


def _imagenet(
    objective: dict[str, Any], optim: dict[str, Any], epochs: int, batch_size: int
) -> ConfigDict:
    config = common.imagenet(objective, optim, epochs=epochs, batch_size=batch_size)
    config.evals = ACCURACY
    return config


def _vit(size: str, drop_path: float) -> dict[str, Any]:
    return {
        "name": "vit",
        "size": size,
        "patch": 16,
        "pool": "avg",
        "norm_after_pool": True,
        "drop_path": drop_path,
        "dtype": "bfloat16",
    }


def _adamw(peak: float, warmup_epochs: float) -> dict[str, Any]:
    """AdamW with a final learning rate of 1e-6; `peak` is the one at batch 1024."""
    return {
        "name": "adamw",
        "lr": peak,
        "lr_end": 1e-6 / peak,
        "weight_decay": 0.05,
        "warmup_epochs": warmup_epochs,
        "decay_rules": DECAY,
    }


def _mae(size: str, *, lr: float, layer_decay: float, drop_path: float, epochs: int) -> ConfigDict:
    optim = _adamw(4 * lr, warmup_epochs=5.0) | {"lr": lr, "layer_decay": layer_decay}
    view = _view("bicubic", "finetune")
    objective = _objective(view, head_init="normal2e-5", **MIXING)
    config = _imagenet(objective, optim, epochs=epochs, batch_size=1024)
    config.backbone = _vit(size, drop_path) | {"position": "sincos"}
    return config


def _swav(labelled: str, *, trunk: float, head: float) -> ConfigDict:
    optim = {
        "name": "sgd",
        "lr": head,
        "lr_scaling": "none",
        "lr_rules": (("^backbone/", trunk / head), (".*", 1.0)),
        "schedule": "step",
        "milestones": (12.0, 16.0),
        "decay": 0.2,
    }
    config = _imagenet(_objective(_view()), optim, epochs=20, batch_size=256)
    config.data.labelled = labelled
    return config


def _simclr_v2(labelled: str, *, epochs: int) -> ConfigDict:
    optim = {"name": "lars", "lars_variant": "simclr", "lr": 0.005, "lr_scaling": "sqrt"}
    objective = _objective(_view("bicubic", "flip"), head_init="zeros")
    config = _imagenet(objective, optim, epochs=epochs, batch_size=1024)
    config.data.labelled = labelled
    return config


RECIPES = common.Recipes(
    small=digits,
    paper=imagenet,
    others=(
        digits_few,
        digits_few_vit,
        cifar10,
        imagenet_vit_base,
        imagenet_vit_large,
        imagenet_beit_base,
        imagenet_1pct,
        imagenet_10pct,
        imagenet_1pct_simclr_v2,
        imagenet_10pct_simclr_v2,
        voc07,
    ),
)
