"""Study: attention, layers and data of masked modelling (2205.13543, 2206.04664).

ssl-jax study --study=study_masked:small --workdir=S --page=masked.md
ssl-jax study --study=study_masked:paper --workdir=S --data=folder:/imagenet/train
"""

from itertools import product

from configs import common

SHARES = (1.0, 0.3, 0.03)  # of the images that are pretrained on
VIT = {f"backbone.{k}": v for k, v in common.TINY_VIT.items()} | {
    "backbone.depth": 4,
    "backbone.position": "sincos",
}
LOOK = {"evals.protocols": ("fewshot", "linear", "attention", "layers")}


def get_config(size: str = "small") -> dict:
    return common.pick(size, small=small, paper=paper)


def small() -> dict:
    """MAE on nested parts of the digits, then fine-tuning on few labels; the same ViT trained with
    all labels and by SimCLR, whose attention and layers are compared with MAE's. Three seeds.
    """
    short = {"train.batch_size": 32, "train.steps": 400, "checkpoint.every": 0}
    short |= common.QUICK_EVALS | LOOK | {"evals.fewshot.shots": (5, 50)}
    runs: dict = {}
    for seed in (0, 1, 2):
        labels = {"train.seed": seed}
        for share in SHARES:
            runs[f"mae-data{share}-seed{seed}"] = (
                short
                | labels
                | {
                    "config": "mae:digits",
                    "data.fraction": share,
                    "labels": {"network": "mae", "share": share, "seed": seed},
                }
            )
        for network, config in (("supervised", "supervised:digits"), ("simclr", "simclr:digits")):
            runs[f"{network}-seed{seed}"] = (
                short
                | labels
                | VIT
                | {
                    "config": config,
                    "labels": {"network": network, "share": 1.0, "seed": seed},
                    "evaluate": (
                        f"--eval=similarity --sweep=other={{study}}/mae-data1.0-seed{seed} "
                        "--no_baselines",
                    ),
                }
            )
        for share, count in (*product((*SHARES, 0.0), (5,)), (1.0, 50), (0.0, 50)):
            runs[f"finetune-{count}-data{share}-seed{seed}"] = (
                VIT
                | labels
                | {
                    "config": "supervised:digits_few",
                    "data.labelled": str(count),
                    "train.steps": 200,
                    "train.batch_size": 32,
                    "checkpoint.every": 0,
                    "evals.protocols": ("classifier",),
                    "labels": {"network": "fine-tuned", "share": share, "shots": count}
                    | {"seed": seed},
                }
                | ({"train.init_from": f"{{study}}/mae-data{share}-seed{seed}"} if share else {})
            )
    return runs


def paper() -> dict:
    """MAE's ViT-B on 1, 10, 30 and 100 % of ImageNet, fine-tuned on all labels and probed. Set the
    data with --data and --eval_data.
    """
    runs: dict = {}
    for share in (0.01, 0.1, 0.3, 1.0):
        runs[f"mae-data{share}"] = {
            "config": "mae:imagenet",
            "backbone.size": "base",
            "data.fraction": share,
            "labels": {"network": "mae", "share": share},
            "evaluate": ("--eval=linear,attention,layers --no_baselines",),
        }
        runs[f"finetune-data{share}"] = {
            "config": "supervised:imagenet_vit_base",
            "train.init_from": f"{{study}}/mae-data{share}",
            "labels": {"network": "fine-tuned", "share": share},
        }
    return runs
