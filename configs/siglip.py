"""SigLIP (2303.15343). It needs captions (docs/data.md).

ssl-jax train --config=siglip:digits --workdir=W
ssl-jax train --config=siglip:flickr --workdir=W --data=parquet:train.parquet --eval_data=...
ssl-jax train --config=siglip:imagenet --workdir=W --data=tar:/pairs/*.tar
"""

from ml_collections import ConfigDict

from configs import clip, common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Captions generated from the labels ("the digit seven"): this run learns from labels. A tenth
    of the pairs of two images of a batch shares a digit and still counts as not matching.
    """
    return _small(clip.digits(), bias=-5.0)


def flickr() -> ConfigDict:
    """CLIP's recipe for about a thousand captioned photographs."""
    return _small(clip.flickr(), bias=-5.0)


def cifar10() -> ConfigDict:
    """CLIP's recipe for small captioned sets of 32 px, without a published counterpart."""
    return _small(clip.cifar10(), bias=-10.0)


def imagenet() -> ConfigDict:
    """ViT-B/16 and a text tower of its size, batch 32,768 (the paper's recommendation), captions of
    64 tokens (the released models). The rates, the lower b2 and 32 epochs are unverified; the
    paper's data are WebLI. A vocabulary in a file is --config.data.tokenizer=FILE.
    """
    objective = {"name": "siglip", "text_remat": "full"}
    optim = {
        "name": "adamw",
        "lr": 1e-3,
        "lr_scaling": "none",
        "b2": 0.95,
        "weight_decay": 1e-4,
        "warmup_epochs": 1.0,
    }
    config = common.imagenet(objective, optim, epochs=32, batch_size=32768)
    config.backbone = {"name": "vit", "size": "base", "patch": 16, "remat": "full"}
    config.backbone.dtype = "bfloat16"
    config.data.tokenizer = "train:32000"
    return config


def _small(config: ConfigDict, bias: float) -> ConfigDict:
    """Change a config of CLIP to the sigmoid loss with its bias."""
    config.objective.name = "siglip"
    config.objective.update({"bias": bias})
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(flickr, cifar10))
