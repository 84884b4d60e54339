"""Multi-task self-supervised visual learning (1708.07860).

ssl-jax train --config=multi_task:moving_digits --workdir=W
ssl-jax train --config=multi_task:imagenet --workdir=W --data=folder:/imagenet/train \
  --config.data.streams.motion=folder:/moving/images
"""

from ml_collections import ConfigDict

from configs import common, context_prediction, motion_segmentation


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def moving_digits() -> ConfigDict:
    """The four tasks on frames of 32 px, which also have the masks."""
    lab = {"space": "lab", "mean": (50.0, 0.0, 0.0), "std": (100.0, 110.0, 110.0)}
    position = context_prediction.moving_digits().objective.to_dict()
    motion = motion_segmentation.moving_digits().objective.to_dict()
    del position["name"], motion["name"]
    objective = {
        "name": "multi_task",
        "relative_position": position | {"embedding": 64, "hidden": (128,)},
        "colorization": {"view": {"size": 32, "area": (0.4, 1.0), "recipe": lab}, "width": 32},
        "exemplar": {
            "view": {"size": 32, "area": (1.0, 1.0), "recipe": "normalize"},
            "patch": 24,
            "seed_scale": 4 / 3,
            "transforms": 0,
            "form": "cosine",
            "copies": 2,
            "embedding": 64,
        },
        "motion": motion,
    }
    optim = {"name": "adamw", "lr": 1e-3}
    config = common.moving_digits(objective, optim, steps=300, batch_size=64)
    config.data.streams = {"motion": "moving_digits"}
    return config


def imagenet() -> ConfigDict:
    """ResNet-101 without its last stage (here of the first version, not the second), ImageNet and
    frames with masks. The paper gives neither rate nor steps: Adam in place of its RMSProp.
    """
    optim = {"name": "adamw", "lr": 1e-4, "schedule": "constant", "warmup_epochs": 1.0}
    config = common.imagenet({"name": "multi_task"}, optim, epochs=35, batch_size=256)
    config.backbone.depth = 92
    config.data.streams = {"motion": ""}
    return config


RECIPES = common.Recipes(small=moving_digits, paper=imagenet)
