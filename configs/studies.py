"""Lists of runs, for `ssl-jax study --study=studies:NAME` and `python -m launch.X --study=...`.

A study is {name of the run: {"config": METHOD:RECIPE, KEY OF THE CONFIG: value, ...}}. In a value,
"{study}" is the study's folder: a run that starts from another one names it so and comes after it;
such a study is for `ssl-jax study`, as launchers start all runs at once.
"""

from itertools import product

from configs import common


def get_config(study: str = "data_and_steps") -> dict:
    return common.pick(
        study,
        data_and_steps=data_and_steps,
        methods_and_widths=methods_and_widths,
        methods_and_depths=methods_and_depths,
        simclr_v2_digits=simclr_v2_digits,
        simclr_v2=simclr_v2,
        beit_digits=beit_digits,
    )


def data_and_steps() -> dict:
    """Data fraction and training length: SimCLR on a tenth, a third and all of the digits."""
    return {
        f"data{share}-steps{steps}": {
            "config": "simclr:digits",
            "data.fraction": share,
            "train.steps": steps,
            "train.batch_size": 128,
        }
        for share, steps in product((0.1, 0.3, 1.0), (100, 300, 1000))
    }


def methods_and_widths() -> dict:
    """Three methods, three widths of the small ResNet, on digits."""
    return {
        f"{method}-width{width}": {"config": f"{method}:digits", "backbone.width": width}
        for method, width in product(("simclr", "byol", "vicreg"), (8, 16, 32))
    }


def methods_and_depths() -> dict:
    """The ImageNet recipes of four methods with ResNets of three depths, 100 epochs. Set the data
    with --data=folder:/imagenet/train.
    """
    return {
        f"{method}-resnet{depth}": {
            "config": f"{method}:imagenet",
            "backbone.depth": depth,
            "train.epochs": 100,
        }
        for method, depth in product(("simclr", "byol", "swav", "barlow_twins"), (18, 50, 101))
    }


def simclr_v2_digits() -> dict:
    """SimCLR v2 on digits: pretraining; then, for five draws of 1 % of the labels and one of 10 %,
    fine-tuning, a student on all images, and the student's network trained on those labels alone,
    for longer.
    """
    runs: dict = {"pretrain": {"config": "simclr_v2:digits"}}
    start = {"backbone.neck": (128,), "train.init_from": "{study}/pretrain"}
    accuracy = {"evals.protocols": ("classifier",)}
    for share, draw in (*((1, draw) for draw in range(5)), (10, 0)):
        name = f"{share}pct-draw{draw}"
        labels = {
            "config": "supervised:digits_few",
            "data.labelled": f"{share}%",
            "data.draw": draw,
            "train.steps": 200,
            "train.batch_size": 14,
        }
        student = {
            "config": "simclr_v2_distillation:digits",
            "train.teacher_from": f"{{study}}/finetune-{name}",
        }
        runs |= {
            f"finetune-{name}": labels | start | accuracy,
            f"distil-{name}": student | accuracy,
            f"labels-only-{name}": labels | accuracy | {"train.steps": 1000},
        }
    return runs


def simclr_v2() -> dict:
    """SimCLR v2 on ImageNet: ResNet-152 3x with selective kernels, pretrained, fine-tuned on 1 and
    10 % of the labels and distilled to a ResNet-50. Set the data with --data and --eval_data.
    """
    network = {"backbone.depth": 152, "backbone.width": 3, "backbone.sk_ratio": 0.0625}
    start = network | {"backbone.neck": (6144,), "train.init_from": "{study}/pretrain"}
    runs: dict = {"pretrain": {"config": "simclr_v2:imagenet"}}
    for share in (1, 10):
        runs |= {
            f"finetune-{share}pct": {"config": f"supervised:imagenet_{share}pct_simclr_v2"} | start,
            f"distil-{share}pct": {
                "config": "simclr_v2_distillation:imagenet",
                "train.teacher_from": f"{{study}}/finetune-{share}pct",
            },
        }
    return runs


def beit_digits() -> dict:
    """BEiT on digits: a tokenizer, pretraining on its codes, fine-tuning on five labels per
    class, and the same network on those labels alone.
    """
    labels = {"config": "supervised:digits_few_vit", "evals.protocols": ("classifier",)}
    return {
        "tokenizer": {"config": "dvae:digits"},
        "pretrain": {"config": "beit:digits", "train.teacher_from": "{study}/tokenizer"},
        "finetune": labels | {"train.init_from": "{study}/pretrain"},
        "labels-only": labels,
    }
