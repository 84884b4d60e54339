"""Study: supervised pretraining as the images grow in number (JFT-300M, 1707.02968).

ssl-jax study --study=study_jft:small --workdir=S --page=jft.md
ssl-jax study --study=study_jft:paper --workdir=S --data=parquet:/jft
"""

from itertools import product

from configs import common

SHARES = (0.03, 0.1, 0.3, 1.0)  # of the images; each part contains the smaller ones
SEEDS = (0, 1, 2)


def get_config(size: str = "small") -> dict:
    return common.pick(size, small=small, paper=paper)


def small() -> dict:
    """Noisy digits: nested parts x two widths, and three shares of wrong labels, three seeds each;
    all runs take the same number of steps.
    """
    short = {
        "config": "jft:digits",
        "train.steps": 300,
        "train.batch_size": 32,
        "checkpoint.every": 0,
    } | common.QUICK_EVALS
    runs: dict = {}
    for width, share, seed in product((8, 16), SHARES, SEEDS):
        runs[f"width{width}-data{share}-seed{seed}"] = short | {
            "backbone.width": width,
            "data.fraction": share,
            "train.seed": seed,
            "labels": {"width": width, "share": share, "wrong": 0.2, "seed": seed},
        }
    for wrong, seed in product((0.0, 0.8), SEEDS):
        runs[f"width8-wrong{wrong}-seed{seed}"] = short | {
            "backbone.width": 8,
            "data.train": f"noisy_digits:{wrong}",
            "train.seed": seed,
            "labels": {"width": 8, "share": 1.0, "wrong": wrong, "seed": seed},
        }
    return runs


def paper() -> dict:
    """10, 30, 100 and 300 million images x ResNet-50, 101 and 152. Set the data with --data."""
    return {
        f"resnet{depth}-data{share}": {
            "config": "jft:jft300m",
            "backbone.depth": depth,
            "data.fraction": share,
            "labels": {"depth": depth, "share": share},
        }
        for depth, share in product((50, 101, 152), SHARES)
    }
