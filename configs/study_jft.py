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
    cases = [
        *((8, share, 0.2) for share in SHARES),
        *((8, 1.0, wrong) for wrong in (0.0, 0.8)),
        *((16, share, 0.2) for share in SHARES),
    ]
    for (width, share, wrong), seed in product(cases, SEEDS):
        noise = f"-wrong{wrong}" if wrong != 0.2 else ""
        runs[f"width{width}-data{share}{noise}-seed{seed}"] = (
            short
            | {
                "backbone.width": width,
                "data.fraction": share,
                "train.seed": seed,
                "labels": {"width": width, "share": share, "wrong": wrong, "seed": seed},
            }
            | ({"data.train": f"noisy_digits:{wrong}"} if noise else {})
        )
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
