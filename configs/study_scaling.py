"""Study: data x capacity x hardness of the problem (Scaling and benchmarking, 1905.01235).

ssl-jax study --study=study_scaling:small --workdir=S --page=scaling.md
ssl-jax study --study=study_scaling:paper --workdir=S --data=folder:/imagenet/train
"""

from itertools import product

from configs import common

TASKS = "--eval=svm,clustering,image_retrieval,few_shot_episodes --no_baselines"


def get_config(size: str = "small") -> dict:
    return common.pick(size, small=small, paper=paper)


def small() -> dict:
    """Jigsaw on nested parts of the digits x two widths x two sets of permutations; colorization of
    photographs with three softnesses of its bins. All runs of a task take equally many steps.
    """
    short = {"train.steps": 300, "train.batch_size": 32, "checkpoint.every": 0}
    short |= common.QUICK_EVALS
    runs: dict = {}
    for seed, share, width, count in product((0, 1), (1.0, 0.3, 0.1), (8, 16), (4, 24)):
        runs[f"jigsaw-data{share}-width{width}-permutations{count}-seed{seed}"] = short | {
            "config": "jigsaw:digits",
            "data.fraction": share,
            "backbone.width": width,
            "objective.permutations": count,
            "train.seed": seed,
            "labels": {"task": "jigsaw", "share": share, "width": width}
            | {"permutations": count, "seed": seed},
        }
    for seed, bins in product((0, 1), (1, 5, 20)):
        runs[f"colorization-bins{bins}-seed{seed}"] = short | {
            "config": "colorization:photos",
            "objective.neighbours": bins,
            "train.seed": seed,
            "labels": {"task": "colorization", "bins": bins, "seed": seed},
        }
    return runs


def paper() -> dict:
    """Jigsaw and colorization of ImageNet: 1, 10 and 100 % of the images x ResNet-18 and 50 x the
    paper's hardness. Set the data with --data; for ImageNet-22k or YFCC with another study folder.
    """
    runs: dict = {}
    for share, depth, count in product((0.01, 0.1, 1.0), (18, 50), (100, 701, 2000, 5000, 10000)):
        runs[f"jigsaw-data{share}-resnet{depth}-permutations{count}"] = {
            "config": "jigsaw:imagenet",
            "data.fraction": share,
            "backbone.depth": depth,
            "objective.permutations": count,
            "evaluate": (TASKS,),
            "labels": {"task": "jigsaw", "share": share, "depth": depth, "permutations": count},
        }
    for share, bins in product((0.01, 0.1, 1.0), (2, 5, 10, 20, 40, 80, 160, 313)):
        runs[f"colorization-data{share}-bins{bins}"] = {
            "config": "colorization:imagenet",
            "data.fraction": share,
            "objective.neighbours": bins,
            "evaluate": (TASKS,),
            "labels": {"task": "colorization", "share": share, "bins": bins},
        }
    return runs
