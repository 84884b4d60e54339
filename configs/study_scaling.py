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

FURTHER = (  # of the digits, beside METRICS
    "--eval=clustering,image_retrieval,few_shot_episodes,patches --no_baselines",
    "--eval=svm --sweep='shots=(4,)' --no_baselines",
)
VOC, VOC0712 = "voc:VOCdevkit/VOC2007", "voc:VOCdevkit/VOC0712"
COCO, PLACES = "coco:coco2014", "folder:places205/train"
DETECTOR = (  # the settings of VOC in docs/protocols.md
    "detection --sweep=model=faster_rcnn_c4 --sweep=steps=24000 --sweep=warmup=100 "
    "--sweep='sizes=(480,512,544,576,608,640,672,704,736,768,800)' --sweep='drops=(0.75,0.9167)'"
)
TASKS = tuple(  # the paper's, of folders in the current one; navigation needs a simulator
    f"--eval={task} --no_baselines"
    for task in (
        f"svm --data={VOC}#trainval --eval_data={VOC}#test",
        f"svm --data={COCO} --sweep='shots=()'",
        f"linear --data={PLACES} --eval_data=folder:places205/val",
        f"svm --data={PLACES} --eval_data=folder:places205/val --sweep=full=False",
        f"{DETECTOR} --sweep=train={VOC}",
        f"{DETECTOR} --sweep=train={VOC0712} --sweep=test={VOC}#test",
        "normals --sweep=train=nyud/train --sweep=test=nyud/test",
    )
)
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
            "evaluate": FURTHER if share == 1.0 else (),
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
            "evaluate": TASKS,
            "labels": {"task": "jigsaw", "share": share, "depth": depth, "permutations": count},
        }
    for share, bins in product((0.01, 0.1, 1.0), (2, 5, 10, 20, 40, 80, 160, 313)):
        runs[f"colorization-data{share}-bins{bins}"] = {
            "config": "colorization:imagenet",
            "data.fraction": share,
            "objective.neighbours": bins,
            "evaluate": TASKS,
            "labels": {"task": "colorization", "share": share, "bins": bins},
        }
    return runs


def get_page(size: str = "small") -> StudyPage:
    capacity = "width" if size == "small" else "depth"
    networks = (capacity, "permutations")
    jigsaw = {"task": "jigsaw"}
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
            *([further(networks)] if size == "small" else paper_tasks(networks)),
        ),
        limits=LIMITS if size == "small" else (),
    )


def further(networks: tuple[str, ...]) -> MeanTable:
    protocols = ("svm", "patches", "clustering", "image_retrieval", "few_shot_episodes")
    return MeanTable(
        title="Six further tasks",
        text="Jigsaw with all images, measured as in the tables above on the digits: mean average "
        "precision of linear SVMs, of all and of 4 labels per class; the class of a single patch; "
        "k-means clusters as classes; retrieval, mAP; episodes of 5 classes with 1 label each.",
        where={"task": "jigsaw", "protocol": protocols, "share": 1.0},
        rows=networks,
        metrics={
            "SVM": "eval/svm_map",
            "SVM, 4 labels": "eval/svm4_map",
            "single patches": "eval/patches_top1",
            "clusters": "eval/kmeans_acc",
            "retrieval": "eval/image_retrieval_map",
            "episodes": "eval/few_shot_episodes_5way_1shot",
        },
    )


def paper_tasks(networks: tuple[str, ...]) -> tuple[MeanTable, ...]:
    svm = {"protocol": "svm"}
    tasks = (
        ("VOC 2007, SVM", svm | {"data": f"{VOC}#trainval"}, "eval/svm_map"),
        ("VOC 2007, SVM of 4 labels", svm | {"data": f"{VOC}#trainval"}, "eval/svm4_map"),
        (
            "COCO 2014, SVM",
            svm | {"data": f"{COCO} (instances_train2014.json)"},
            "eval/svm_map",
        ),
        ("Places205, linear", {"protocol": "linear", "data": PLACES}, "eval/linear_top1"),
        ("Places205, SVM of 4 labels", svm | {"data": PLACES}, "eval/svm4_map"),
        ("VOC 2007, detection", {"protocol": "detection", "train": VOC}, "eval/detection_ap50"),
        (
            "VOC 2007 and 2012, detection",
            {"protocol": "detection", "train": VOC0712},
            "eval/detection_ap50",
        ),
        ("NYUd, normals", {"protocol": "normals"}, "eval/normals_median"),
    )
    return tuple(
        MeanTable(
            title=f"{title}: {pretext}",
            where={"task": pretext} | where,
            rows=(*labels, "share"),
            metrics={metric.removeprefix("eval/"): metric},
        )
        for title, where, metric in tasks
        for pretext, labels in (("jigsaw", networks), ("colorization", ("bins",)))
    )


SETUP = (
    "Jigsaw of 2 x 2 tiles on nested parts of 1,437 digits, rotation of all of "
    "them, colorization of 900 crops of two "
    "photographs; ResNet of three blocks, 200 steps of 32 images for every run, so that a small "
    "part is repeated more often."
)
LIMITS = (
    "Two seeds: an interval has one degree of freedom and is wide whatever the effect.",
    "The nine tasks are of the digits. Of the paper's, classification and few labels have a form "
    "here. The paper form also measures detection and normals, of which nothing is embedded (not "
    "run), but not navigation, which needs a simulator.",
    "Rotation is by two or four angles; eight would need resampled images.",
)
