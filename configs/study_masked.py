"""Study: attention, layers and data of masked modelling (2205.13543, 2206.04664).

ssl-jax study --study=study_masked:small --workdir=S --page=masked.md
ssl-jax study --study=study_masked:paper --workdir=S --data=folder:/imagenet/train
"""

from itertools import product

from configs import common
from ssl_jax.report.study import StudyPage
from ssl_jax.report.study_figures import Heat, Lines
from ssl_jax.report.study_findings import Contrast, Fit
from ssl_jax.report.study_sections import MeanTable

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
    all labels and by SimCLR, whose attention and layers are compared with MAE's. Every network
    sees as many views. Three seeds.
    """
    short = {"train.batch_size": 32, "train.steps": 1200, "checkpoint.every": 0}
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
                    "evals.baselines": share == 1.0,  # equal for the other shares
                    "labels": {"network": "mae", "share": share, "seed": seed},
                }
            )
        for network, steps in (("supervised", 1200), ("simclr", 600)):
            runs[f"{network}-seed{seed}"] = (
                short
                | labels
                | VIT
                | {
                    "config": f"{network}:digits",
                    "train.steps": steps,
                    "evals.baselines": network == "simclr",  # equal for both
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
                    "evals.baselines": False,
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


def get_page(size: str = "small") -> StudyPage:
    whole = {"share": 1.0}
    networks = ("mae", "supervised", "simclr") if size == "small" else ("mae",)
    frozen = {"linear, all labels": "eval/linear_top1"}
    if size == "small":
        frozen = {"5 labels per class": "eval/fewshot5_top1"} | frozen
    few = MeanTable(
        title="Fine-tuning on few labels",
        text="Accuracy of the fine-tuned network; share 0.0 is the network without pretraining.",
        where={"network": "fine-tuned"},
        rows=("share",),
        columns="shots",
        metrics={"accuracy": "eval/classifier_top1"},
    )
    gain = Contrast(
        title="Gain by pretraining",
        text="The same fine-tuning from MAE on all images and from scratch; the interval is "
        "Student's over the seeds.",
        where={"network": "fine-tuned"},
        label="share",
        values=(0.0, 1.0),
        metrics={"accuracy": "eval/classifier_top1"},
        each=("shots",),
    )
    growth = Fit(
        title="Growth of fine-tuning with the images",
        text="MAE, then fine-tuning on five labels per class: one line per seed, averaged.",
        where={"network": "fine-tuned", "shots": 5, "share": SHARES},
        metrics={"5 labels per class": "eval/classifier_top1"},
        x="share",
        curve=("network",),
    )
    contrasts = [
        Contrast(
            title=f"Attention and layers of mae and {network}",
            text="Means over all blocks, and over all pairs of two blocks; the interval is "
            "Student's over the seeds.",
            where=whole,
            label="network",
            values=(network, "mae"),
            metrics={
                "attention distance in pixels": "diag/attention_distance_{}",
                "attention entropy in nats": "diag/attention_entropy_{}",
                "CKA of two blocks": "diag/cka_{}_{}",
            },
        )
        for network in networks[1:]
    ]
    shrinking = Lines(
        title="Fine-tuning and frozen features as the data shrink",
        text="All with labels of five images per class. The share is that of the images that MAE "
        "was pretrained on.",
        where={"shots": (5, None), "network": ("mae", "fine-tuned")},
        metric=("eval/classifier_top1", "eval/fewshot5_top1"),
        name="accuracy, 5 labels per class",
        x="share",
        curve=("network",),
        log=True,
    )
    return StudyPage(
        title="Attention, layers and data of masked modelling",
        question="Does masked modelling attend more locally than supervised and contrastive "
        "training, are its layers more alike, and how do fine-tuned and frozen features change as "
        "the images become fewer? After [2205.13543](https://arxiv.org/abs/2205.13543) (dark "
        "secrets) and [2206.04664](https://arxiv.org/abs/2206.04664) (data scaling); the linear "
        "CKA is that of [1905.00414](https://arxiv.org/abs/1905.00414).",
        setup=SETUP if size == "small" else "",
        sections=(
            MeanTable(
                title="Frozen features",
                where={"network": networks},
                rows=("network", "share"),
                metrics=frozen,
                baselines=True,
            ),
            *((few, gain, shrinking) if size == "small" else ()),
            Fit(
                title="Growth with the images",
                text="MAE, frozen features: one line per seed, averaged.",
                where={"network": "mae"},
                metrics=frozen,
                x="share",
                curve=("network",),
            ),
            *((growth,) if size == "small" else ()),
            *contrasts,
            Lines(
                title="Attention distance",
                text="Mean distance in pixels between query and key, of every head (dots) and the "
                "mean of a block (line), on 128 test images. Block 0 is the first."
                + (" Attention to all patches alike has 8.03 pixels." if size == "small" else ""),
                where=whole | {"network": networks},
                metric="diag/attention_distance_{}_{}",
                name="attention distance in pixels",
                x="block",
                curve=("network",),
            ),
            Lines(
                title="Attention entropy",
                text="Mean entropy in nats of the attention of a token, of every head."
                + (" Attention to all 17 tokens alike has 2.83." if size == "small" else ""),
                where=whole | {"network": networks},
                metric="diag/attention_entropy_{}_{}",
                name="entropy in nats",
                x="block",
                curve=("network",),
            ),
            *(
                Heat(
                    title=f"CKA between the blocks of {network}",
                    where=whole | {"network": network},
                    metric="diag/cka_{}_{}",
                    row="block",
                    column="block",
                    symmetric=True,
                )
                for network in networks
            ),
            *(
                Heat(
                    title=f"CKA between {network} and mae",
                    where=whole | {"network": network, "protocol": "similarity"},
                    metric="diag/cka_other_{}_{}",
                    row=f"block of {network}",
                    column="block of mae",
                )
                for network in networks[1:]
            ),
        ),
        limits=LIMITS if size == "small" else (),
    )


SETUP = (
    "Digits of 16 pixels, a ViT of 4 blocks, 4 heads and 64 dimensions, 16 patches and a class "
    "token; 1,200 steps of 32 images for every network and every share, 600 for SimCLR with its "
    "two views per image, 200 for fine-tuning. Features are pooled over the patches for CKA."
)
LIMITS = (
    "A ViT of four blocks on digits shows how the measurements are made; the statements of the "
    "papers are of Swin and ViT-B on ImageNet.",
    "The networks saw equally many views; they were not trained equally well.",
    "The distance is bounded by 16 pixels, and 16 patches leave little room for locality.",
    "Fine-tuning takes 200 steps whatever the number of labels, so 50 labels per class are "
    "repeated a tenth as often as 5: the two columns do not compare.",
    "MAE's own rate and length were not tuned per share; a small share is repeated more often.",
)
