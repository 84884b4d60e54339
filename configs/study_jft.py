"""Study: supervised pretraining as the images grow in number (JFT-300M, 1707.02968).

ssl-jax study --study=study_jft:small --workdir=S --page=jft.md
ssl-jax study --study=study_jft:paper --workdir=S --data=parquet:/jft
"""

from itertools import product

from configs import common
from ssl_jax.report.study import StudyPage
from ssl_jax.report.study_figures import Lines
from ssl_jax.report.study_findings import Contrast, Fit
from ssl_jax.report.study_sections import MeanTable

METRICS = {  # of the frozen features, with the true digits
    "5 labels per class": "eval/fewshot5_top1",
    "all labels": "eval/linear_top1",
    "kNN": "eval/knn_top1",
}
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
                "evals.baselines": share == 1.0 and not noise,  # equal for the other shares
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


def get_page(size: str = "small") -> StudyPage:
    sizes, grid = ("width", {"wrong": 0.2}) if size == "small" else ("depth", {})
    noise = (
        MeanTable(
            title="Label noise",
            text="Share of the images whose digit is a wrong one; all images, the narrow network.",
            where={"width": 8, "share": 1.0},
            rows=("wrong",),
            metrics=METRICS,
        ),
        Contrast(
            title="Cost of label noise",
            text="All images, the narrow network; the interval is Student's over the seeds.",
            where={"width": 8, "share": 1.0},
            label="wrong",
            values=(0.0, 0.8),
            metrics=METRICS,
        ),
    )
    return StudyPage(
        title="Data, capacity and label noise of supervised pretraining (JFT)",
        question="Does the transfer of a network that was pretrained on noisy labels grow with the "
        "logarithm of the number of images, does a larger network gain more, and how much do wrong "
        "labels cost? The questions are those of JFT-300M "
        "([1707.02968](https://arxiv.org/abs/1707.02968)), on nested parts of the images.",
        setup=SETUP if size == "small" else "",
        sections=(
            MeanTable(
                title="Accuracy by share of the images",
                text="Frozen features, true digits.",
                where=grid,
                rows=(sizes, "share"),
                metrics=METRICS,
                baselines=True,
            ),
            Lines(
                title="Growth with the data",
                where=grid,
                metric="eval/fewshot5_top1",
                name="accuracy, 5 labels per class",
                x="share",
                curve=(sizes,),
                log=True,
            ),
            Fit(
                title="Log-linear fit",
                text="One line per seed, averaged; the interval is Student's over the seeds. A "
                "slope that differs from 0 does not show that the growth is a line.",
                where=grid,
                metrics=METRICS,
                x="share",
                curve=(sizes,),
            ),
            *(noise if size == "small" else ()),
        ),
        limits=LIMITS if size == "small" else (),
    )


SETUP = (
    "`noisy_digits`: 1,437 digits of 8 x 8 pixels, labels of 14 classes of which a fifth of the "
    "digits is wrong. ResNet of three blocks, 300 steps of 32 images whatever the share, so that a "
    "small part is repeated more often (the paper tunes the length per size)."
)
LIMITS = (
    "1,437 images cannot show whether growth continues at 300 million; this page shows that the "
    "study runs and how its numbers are read.",
    "Three seeds: an interval has two degrees of freedom, so only large slopes differ from 0.",
    "Pretraining and evaluation are of the same digits, so this is no transfer to other images.",
    "Detection, segmentation and pose, which the paper fine-tunes, are not part of the small form.",
)
