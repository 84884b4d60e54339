"""Study: data x capacity x hardness of the problem (Scaling and benchmarking, 1905.01235).

ssl-jax study --study=study_scaling:small --workdir=S --page=scaling.md
ssl-jax study --study=study_scaling:paper --workdir=S --data=folder:/imagenet/train
"""

from itertools import product

from configs import common
from ssl_jax.report.study import StudyPage
from ssl_jax.report.study_figures import Lines
from ssl_jax.report.study_findings import Contrast, Fit
from ssl_jax.report.study_sections import MeanTable

FURTHER = "--eval=clustering,image_retrieval,few_shot_episodes --no_baselines"
TASKS = "--eval=svm,clustering,image_retrieval,few_shot_episodes --no_baselines"
METRICS = {
    "5 labels per class": "eval/fewshot5_top1",
    "all labels": "eval/linear_top1",
    "kNN": "eval/knn_top1",
}


def get_config(size: str = "small") -> dict:
    return common.pick(size, small=small, paper=paper)


def small() -> dict:
    """Jigsaw on nested parts of the digits x two widths x two sets of permutations; rotation by
    two and four angles; colorization of photographs with three softnesses of its bins. All runs
    take equally many steps.
    """
    short = {"train.steps": 200, "train.batch_size": 32, "checkpoint.every": 0}
    short |= common.QUICK_EVALS
    runs: dict = {}
    for seed, count, width, share in product((0, 1), (24, 4), (8, 16), (1.0, 0.3, 0.1)):
        runs[f"jigsaw-data{share}-width{width}-permutations{count}-seed{seed}"] = short | {
            "config": "jigsaw:digits",
            "data.fraction": share,
            "backbone.width": width,
            "objective.permutations": count,
            "train.seed": seed,
            "evals.baselines": share == 1.0,  # equal for the other shares
            "labels": {"task": "jigsaw", "share": share, "width": width}
            | {"permutations": count, "seed": seed},
            "evaluate": (FURTHER,) if share == 1.0 else (),
        }
    for seed, angles in product((0, 1), (4, 2)):
        runs[f"rotnet-angles{angles}-seed{seed}"] = short | {
            "config": "rotnet:digits",
            "backbone.width": 8,
            "objective.angles": angles,
            "train.seed": seed,
            "evals.baselines": angles == 4,
            "labels": {"task": "rotation", "angles": angles, "seed": seed},
        }
    for seed, bins in product((0, 1), (1, 5, 20)):
        runs[f"colorization-bins{bins}-seed{seed}"] = short | {
            "config": "colorization:photos",
            "objective.neighbours": bins,
            "train.seed": seed,
            "evals.baselines": bins == 20,
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


def get_page(size: str = "small") -> StudyPage:
    capacity = "width" if size == "small" else "depth"
    networks = (capacity, "permutations")
    jigsaw = {"task": "jigsaw"}
    further = (
        ("clustering", "k-means clusters = classes", "eval/kmeans_acc"),
        ("image_retrieval", "image retrieval, mAP", "eval/image_retrieval_map"),
        ("few_shot_episodes", "5 classes, 1 label each", "eval/few_shot_episodes_5way_1shot"),
    )
    contrasts = [
        Contrast(
            title=title,
            text=f"Runs of jigsaw that differ in their {label} alone; the interval is Student's "
            "over these pairs.",
            where=jigsaw,
            label=label,
            values=values,
            metrics=METRICS,
        )
        for title, label, values in (
            ("Gain by width", "width", (8, 16)),
            ("Gain by hardness", "permutations", (4, 24)),
        )
    ]
    return StudyPage(
        title="Data, capacity and hardness of pretext tasks (Scaling and benchmarking)",
        question="Do features of a pretext task grow with the number of images, does a larger "
        "network gain more, and does a harder problem help? After "
        "[1905.01235](https://arxiv.org/abs/1905.01235), which finds log-linear growth, more of it "
        "for ResNet-50 than for AlexNet, and that the three axes add up.",
        setup=SETUP if size == "small" else "",
        sections=(
            MeanTable(
                title="Jigsaw",
                text="Frozen features; the hardness is the number of permutations.",
                where=jigsaw,
                rows=(*networks, "share"),
                metrics=METRICS,
                baselines=True,
            ),
            Lines(
                title="Growth with the data",
                where=jigsaw,
                metric="eval/fewshot5_top1",
                name="accuracy, 5 labels per class",
                x="share",
                curve=networks,
                log=True,
            ),
            Fit(
                title="Log-linear fit",
                text="One line per seed, averaged; the interval is Student's over the seeds. A "
                "slope that differs from 0 does not show that the growth is a line.",
                where=jigsaw,
                metrics={"5 labels per class": "eval/fewshot5_top1"},
                x="share",
                curve=networks,
            ),
            *(contrasts if size == "small" else ()),
            MeanTable(
                title="Colorization",
                text="The hardness is the number of bins that share the target of a pixel; 1 is "
                "the hard target.",
                where={"task": "colorization"},
                rows=("bins",),
                metrics=METRICS,
                baselines=True,
            ),
            MeanTable(
                title="Rotation",
                text="The hardness is the number of angles.",
                where={"task": "rotation"},
                rows=("angles",),
                metrics=METRICS,
                baselines=True,
            ),
            *(
                MeanTable(
                    title=name[0].upper() + name[1:],
                    where=jigsaw | {"protocol": protocol, "share": 1.0},
                    rows=networks,
                    metrics={name: metric},
                )
                for protocol, name, metric in further
            ),
        ),
        limits=LIMITS if size == "small" else (),
    )


SETUP = (
    "Jigsaw of 2 x 2 tiles on nested parts of 1,437 digits, rotation of all of "
    "them, colorization of 900 crops of two "
    "photographs; ResNet of three blocks, 200 steps of 32 images for every run, so that a small "
    "part is repeated more often."
)
LIMITS = (
    "Two seeds: an interval has one degree of freedom and is wide whatever the effect.",
    "Of the paper's nine tasks, six have a form here: classification with all and with few labels, "
    "neighbours, retrieval, clusters, episodes. The support vector machine, detection, normals and "
    "navigation were not run.",
    "Rotation is by two or four angles; eight would need resampled images.",
)
