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
        s4l_digits=s4l_digits,
        moam_digits=moam_digits,
        moam=moam,
        multi_task_moving_digits=multi_task_moving_digits,
        jft_digits=jft_digits,
        jft_digits_epochs=jft_digits_epochs,
        beit_digits=beit_digits,
        beit_v2_digits=beit_v2_digits,
        dense_photos=dense_photos,
        curl_pendulum=curl_pendulum,
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


def s4l_digits() -> dict:
    """S4L with five labels per class, and the same labels alone for as many steps: by the recipe
    of `supervised`, and with every setting of S4L's. Each seed has its own draw of the labels.
    """
    arms = {
        "s4l": {"config": "s4l:digits"},
        "labels-only": {"config": "supervised:digits_few", "train.steps": 400},
        "labels-only-same-settings": {
            "config": "supervised:digits_few",
            "train.steps": 400,
            "objective.view.strength": 0.7,
            "objective.label_smoothing": 0.0,
            "objective.average": 0.0,
            "optim.lr": 2e-3,
            "optim.warmup_steps": 40,
            "optim.weight_decay": 0.0,
        },
    }
    each = {"evals.protocols": ("classifier",)}
    return {
        f"{arm}-seed{seed}": run | each | {"train.seed": seed, "data.draw": seed}
        for seed, (arm, run) in product(range(3), arms.items())
    }


def moam_digits() -> dict:
    """The three steps of S4L's mix of all models on digits: all losses together, training on the
    first network's predictions for all images, fine-tuning on the labels.
    """
    return {
        "1-all-losses": {"config": "s4l:digits_moam"},
        "2-pseudo-labels": {
            "config": "simclr_v2_distillation:digits",
            "objective.teacher_backbone": {},
            "train.teacher_from": "{study}/1-all-losses",
            "train.batch_size": 128,
            "train.steps": 300,
        },
        "3-labels": {
            "config": "supervised:digits_few",
            "train.init_from": "{study}/2-pseudo-labels",
            "optim.lr": 3e-4,
        },
    }


def moam() -> dict:
    """The same on ImageNet with 10 % of the labels. Set the data with --data, and the first step's
    second set with --config.data.streams.unlabelled. The code of the second and third step was not
    released: their schedules are those of its pseudo-label baseline and of `supervised`.
    """
    wide = {"backbone.width": 4}
    return {
        "1-all-losses": {"config": "s4l:imagenet_moam"},
        "2-pseudo-labels": wide
        | {
            "config": "simclr_v2_distillation:imagenet",
            "objective.teacher_backbone": {},
            "train.teacher_from": "{study}/1-all-losses",
            "train.epochs": 100,
            "train.batch_size": 256,
            "optim.name": "sgd",
            "optim.lr": 0.1,
            "optim.lr_scaling": "linear",
            "optim.schedule": "step",
            "optim.milestones": (30, 60, 90),
            "optim.warmup_epochs": 5.0,
        },
        "3-labels": wide
        | {"config": "supervised:imagenet_10pct", "train.init_from": "{study}/2-pseudo-labels"},
    }


def multi_task_moving_digits() -> dict:
    """Four tasks in one trunk, and each of them alone with the same optimizer, images per step and
    steps, on three seeds.
    """
    tasks = ("relative_position", "colorization", "exemplar")
    motion = {
        "config": "motion_segmentation:moving_digits",
        "optim.lr": 1e-3,
        "optim.warmup_steps": 30,
        "train.steps": 300,
        "train.batch_size": 64,
    }
    arms: dict = {"all-tasks": {"config": "multi_task:moving_digits"}}
    for task in tasks:
        others = {f"objective.{other}": None for other in (*tasks, "motion") if other != task}
        arms[task] = {"config": "multi_task:moving_digits", "data.streams": {}} | others
    arms["motion"] = motion
    return {
        f"{arm}-seed{seed}": run | common.QUICK_EVALS | {"train.seed": seed}
        for seed, (arm, run) in product(range(3), arms.items())
    }


def jft_digits() -> dict:
    """Nested parts of the noisy digits at an equal number of steps, for --fit=data.fraction."""
    return _nested({"train.steps": 150})


def jft_digits_epochs() -> dict:
    """The same at an equal number of epochs, so that a smaller part has fewer steps."""
    return _nested({"train.epochs": 20})


def _nested(length: dict) -> dict:
    """JFT on parts of which each contains the smaller ones (see `data.subset.fraction`)."""
    return {
        f"data{share}-seed{seed}": {
            "config": "jft:digits",
            "data.fraction": share,
            "train.seed": seed,
            "train.batch_size": 64,
        }
        | length
        for share, seed in product((0.05, 0.2, 1.0), (0, 1))
    }


def beit_digits() -> dict:
    """BEiT on digits: a tokenizer, pretraining on its codes, fine-tuning on five labels per
    class, and the same network on those labels alone.
    """
    return {"tokenizer": {"config": "dvae:digits"}} | _on_codes("beit:digits")


def beit_v2_digits() -> dict:
    """The same with BEiT v2, whose tokenizer learns the tokens of a DINO run."""
    return {
        "teacher": {"config": "dino:digits_vit"},
        "tokenizer": {"config": "vqkd:digits", "train.teacher_from": "{study}/teacher"},
    } | _on_codes("beit_v2:digits")


def _on_codes(config: str) -> dict:
    """Pretraining on the codes of the run `tokenizer`, then fine-tuning."""
    labels = {"config": "supervised:digits_few_vit", "evals.protocols": ("classifier",)}
    return {
        "pretrain": {"config": config, "train.teacher_from": "{study}/tokenizer"},
        "finetune": labels | {"train.init_from": "{study}/pretrain"},
        "labels-only": labels,
    }


def dense_photos() -> dict:
    """Methods with losses of pixels, and SimCLR: the same network, views, optimizer and images, for
    measurements of maps, on five seeds. Set --data and the settings of those protocols.
    """
    view = {"size": 48, "area": (0.2, 1.0), "recipe": "moco_v2"}
    pair = {"objective.view": {"count": 2} | view, "objective.temperature": 0.2}
    arms = {
        "pixpro": {"objective.views": (view, view), "objective.instance": "none"},
        "pixpro-instance": {"objective.views": (view, view)},
        "densecl": pair | {"objective.queue_size": 512, "objective.momentum": 0.98},
        "simclr": pair,
    }
    common_keys = {
        "backbone.stem": "small",
        "optim.lr": 2e-3,
        "optim.warmup_steps": 50,
        "train.steps": 500,
        "train.batch_size": 64,
        "evals.protocols": ("patches", "propagation"),
    }
    return {
        f"{arm}-seed{seed}": {"config": f"{arm.split('-')[0]}:digits", "train.seed": seed}
        | run
        | common_keys
        for seed, (arm, run) in product(range(5), arms.items())
    }


def curl_pendulum() -> dict:
    """CURL, the same agent without the contrastive term, and that one on whole frames, where no
    random crop augments what the critics see; five seeds.
    """
    arms = {
        "curl": {},
        "crops": {"objective.contrast": False},
        "whole": {"objective.contrast": False, "control.side": 24},
    }
    return {
        f"{arm}-seed{seed}": {"config": "curl:pendulum", "train.seed": seed} | run
        for seed, (arm, run) in product(range(5), arms.items())
    }
