"""Evolving losses (2002.12177).

ssl-jax train --config=evolving_losses:moving_digits --workdir=W
ssl-jax evolve --config=evolving_losses:moving_digits --workdir=S --population=8 --generations=4
ssl-jax train --config=evolving_losses:av_clips --workdir=W --data=frames:/av_clips/frames
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "youtube") -> ConfigDict:
    return RECIPES.build(recipe)


def moving_digits() -> ConfigDict:
    """Clips of 2 x 4 frames, 32 px, in 2 x 8 x 8 tubelets, with flow and a tone."""
    objective = {
        "name": "evolving_losses",
        "view": {"size": 32, "area": (1.0, 1.0), "recipe": "normalize"},
        "samples": 500,
        "hidden": (64,),
        "embedding": 32,
    }
    optim = {"name": "adamw", "lr": 2e-3}
    config = common.moving_digits(objective, optim, steps=200, batch_size=32)
    config.backbone = {
        "name": "vit_video",
        "size": None,
        "dim": 48,
        "depth": 2,
        "heads": 4,
        "patch": 8,
        "image_size": 32,
        "frames": 4,
        "tubelet": 2,
        "position": "learned",
        "cls_token": False,
        "pool": "avg",
    }
    config.evals = {"protocols": ("zipf", "knn", "linear"), "max_train": 1437}
    return config


def av_clips() -> ConfigDict:
    """Real clips with sound (12.5 frames and 16,000 samples per second) and without flow."""
    config = moving_digits()
    config.objective.modalities = ("rgb", "grey", "sound")
    config.objective.samples = 1280
    config.data.train = ""
    config.train.steps = 400
    return config


def youtube() -> ConfigDict:
    """The paper's setting as far as it is known: RGB, grey, flow and sound of two million clips;
    the search trains each member for 10,000 steps. Network, rate and length are ours: ViT-B/16.
    """
    objective = {"name": "evolving_losses"}
    optim = {"name": "adamw", "lr": 1e-4, "warmup_steps": 1000, "weight_decay": 0.05}
    config = common.imagenet(objective, optim, epochs=1, batch_size=256)
    config.train = {"steps": 10_000, "batch_size": 256, "log_every": 50}
    config.backbone = {
        "name": "vit_video",
        "size": "base",
        "patch": 16,
        "image_size": 224,
        "frames": 16,
        "position": "sincos",
        "cls_token": False,
        "pool": "avg",
        "remat": "full",
        "dtype": "bfloat16",
    }
    config.evals.protocols = ("zipf", "knn")
    return config


RECIPES = common.Recipes(small=moving_digits, paper=youtube, others=(av_clips,))
