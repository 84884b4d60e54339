"""Motion segmentation: learning features by watching objects move (1612.06370).

ssl-jax train --config=motion_segmentation:moving_digits --workdir=W
ssl-jax prepare --data=frames:/clips --output=/moving --motion
ssl-jax train --config=motion_segmentation:yfcc --workdir=W --data=folder:/moving/images
ssl-jax train --config=motion_segmentation:yfcc_alexnet --workdir=W --data=folder:/moving/images
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "yfcc") -> ConfigDict:
    return RECIPES.build(recipe)


def moving_digits() -> ConfigDict:
    """Frames of 32 px with exact masks; mirrored digits would be others."""
    objective = {
        "name": "motion_segmentation",
        "view": {"size": 32, "area": (0.4, 1.0), "recipe": "normalize"},
        "grid": 16,
        "width": 32,
        "rank": 128,
    }
    return common.moving_digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=128)


def yfcc() -> ConfigDict:
    """Frames of 205,000 clips of YFCC100M. The optimizer is not published: RotNet's schedule."""
    optim = common.STEPS_IMAGENET | {"milestones": (15, 25)}
    return common.imagenet({"name": "motion_segmentation"}, optim, epochs=35, batch_size=256)


def yfcc_alexnet() -> ConfigDict:
    """The paper's network; the schedule of `yfcc`."""
    optim = common.STEPS_IMAGENET | {"milestones": (15, 25)}
    return common.alexnet({"name": "motion_segmentation"}, optim, epochs=35, batch_size=256)


RECIPES = common.Recipes(small=moving_digits, paper=yfcc, others=(yfcc_alexnet,))
