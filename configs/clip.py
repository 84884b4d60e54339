"""CLIP (2103.00020). It needs captions (docs/data.md).

ssl-jax train --config=clip:digits --workdir=W
ssl-jax train --config=clip:flickr --workdir=W --data=parquet:train.parquet --eval_data=...
ssl-jax train --config=clip:imagenet --workdir=W --data=tar:/pairs/*.tar
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Captions generated from the labels ("the digit seven"): this run learns from labels."""
    view = {"size": 16, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.6}
    objective = {
        "name": "clip",
        "view": view,
        "context": 32,
        "dim": 64,
        "text_dim": 64,
        "text_depth": 2,
        "text_heads": 4,
    }
    optim = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.1}
    return common.digits(objective, optim, steps=200, batch_size=64)


def flickr() -> ConfigDict:
    """About a thousand captioned photographs on a CPU, with its own vocabulary. Training
    is short, since so few pairs are soon memorised.
    """
    view = {"size": 32, "area": (0.3, 1.0), "recipe": "simclr_cifar", "strength": 0.5}
    objective = {
        "name": "clip",
        "view": view,
        "context": 24,
        "dim": 128,
        "text_dim": 128,
        "text_depth": 2,
        "text_heads": 4,
    }
    optim = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.2}
    config = common.digits(objective, optim, steps=500, batch_size=128)
    config.data = {"train": "", "tokenizer": "train:1024"}
    return config


def cifar10() -> ConfigDict:
    """No published recipe: a ResNet-18 at 32 px and a small text tower, for small captioned sets;
    CIFAR-10's own labels are no captions.
    """
    view = {"size": 32, "area": (0.5, 1.0), "recipe": "simclr_cifar", "strength": 0.5}
    objective = {
        "name": "clip",
        "view": view,
        "dim": 256,
        "text_dim": 256,
        "text_depth": 4,
        "text_heads": 4,
    }
    config = common.cifar10(objective, _adamw(5e-4, 5.0), epochs=200, batch_size=512)
    config.data.tokenizer = "train:8192"
    return config


def imagenet() -> ConfigDict:
    """ViT-B/32, batch 32,768, 32 epochs (table 20 of the paper), on captioned images. The released
    vocabulary, a tokenizer file of 49,408 pieces, is --config.data.tokenizer=FILE.
    """
    objective = {"name": "clip", "text_remat": "full"}
    config = common.imagenet(objective, _adamw(5e-4, 1.0), epochs=32, batch_size=32768)
    config.backbone = {"name": "vit", "size": "base", "patch": 32, "remat": "full"}
    config.backbone.dtype = "bfloat16"
    config.data.tokenizer = "train:49152"
    return config


def _adamw(lr: float, warmup_epochs: float) -> dict:
    return {
        "name": "adamw",
        "lr": lr,
        "lr_scaling": "none",
        "b2": 0.98,
        "eps": 1e-6,
        "weight_decay": 0.2,
        "warmup_epochs": warmup_epochs,
    }


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(flickr, cifar10))
