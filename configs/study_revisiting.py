"""Study: pretext tasks x architectures x widths, every layer (Revisiting SSL, 1901.09005).

ssl-jax study --study=study_revisiting:small --workdir=S --page=revisiting.md
ssl-jax study --study=study_revisiting:paper --workdir=S --data=folder:/imagenet/train
"""

from itertools import product

from configs import common

TASKS = {
    "rotation": "rotnet",
    "exemplar": "exemplar_cnn",
    "relative patch": "context_prediction",
    "jigsaw": "jigsaw",
}
LAYERS = "--eval=linear --sweep=stage={} --no_baselines"  # logistic regression by L-BFGS


def get_config(size: str = "small") -> dict:
    return common.pick(size, small=small, paper=paper)


def small() -> dict:
    """Four tasks x a residual network and one without skip connections x two widths on digits."""
    short = {"train.steps": 200, "train.batch_size": 32, "checkpoint.every": 0}
    short |= common.QUICK_EVALS
    runs: dict = {}
    for seed, (task, method), architecture, width in product(
        (0, 1), TASKS.items(), ("resnet", "vgg"), (8, 16)
    ):
        runs[f"{method}-{architecture}-width{width}-seed{seed}"] = (
            short
            | _small(architecture, width)
            | {
                "config": f"{method}:digits",
                "train.seed": seed,
                "labels": {"task": task, "architecture": architecture}
                | {"width": width, "seed": seed},
            }
        )
    return runs


def _small(architecture: str, width: int) -> dict:
    if architecture == "resnet":
        return {"backbone.width": width, "evaluate": (LAYERS.format("-1,-2,-3"),)}
    return {
        "backbone.name": "vgg_dilated",
        "backbone.widths": (width, 2 * width, *[4 * width] * 5),
        "evaluate": (LAYERS.format("-1,-3,-5,-7"),),
    }


def paper() -> dict:
    """The four tasks x ResNet-50 v1.5 of four widths on ImageNet. Set the data with --data. The
    paper's other networks (ResNet v2, RevNet-50, VGG-19) are not among ours.
    """
    return {
        f"{method}-resnet50-width{width}": {
            "config": f"{method}:imagenet",
            "backbone.name": "resnet",
            "backbone.depth": 50,
            "backbone.width": width,
            "train.epochs": 35,
            "evaluate": (LAYERS.format("-1,-2,-3,-4"),),
            "labels": {"task": task, "architecture": "resnet50", "width": 4 * width},
        }
        for (task, method), width in product(TASKS.items(), (1, 2, 3, 4))
    }
