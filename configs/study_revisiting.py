"""Study: pretext tasks x architectures x widths, every layer (Revisiting SSL, 1901.09005).

ssl-jax study --study=study_revisiting:small --workdir=S --page=revisiting.md
ssl-jax study --study=study_revisiting:paper --workdir=S --data=folder:/imagenet/train
"""

from itertools import product

from configs import common
from ssl_jax.report.study import StudyPage
from ssl_jax.report.study_figures import Lines
from ssl_jax.report.study_findings import Best, Contrast, Ranking, Scatter
from ssl_jax.report.study_sections import MeanTable

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
    short = {"train.steps": 150, "train.batch_size": 32, "checkpoint.every": 0}
    short |= common.QUICK_EVALS | {"evals.baselines": False}
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


def get_page(size: str = "small") -> StudyPage:
    metric = "eval/fewshot5_top1"
    networks = ("architecture", "width")
    widths = Contrast(
        title="Gain by width",
        text="Runs that differ in their width alone; the interval is Student's over these pairs.",
        label="width",
        values=(8, 16),
        metrics={"5 labels per class": metric, "all labels": "eval/linear_top1"},
        each=("architecture",),
    )
    return StudyPage(
        title="Pretext tasks, architectures and widths (Revisiting self-supervised learning)",
        question="Is the best architecture the same for every pretext task, does width help, does "
        "the accuracy of the pretext task tell which network is best, and which layer is? After "
        "[1901.09005](https://arxiv.org/abs/1901.09005), whose answers on ImageNet are: no; "
        "yes; no; the last one with skip connections, an earlier one without.",
        setup=SETUP if size == "small" else "",
        sections=(
            MeanTable(
                title="Few labels",
                text="Accuracy of frozen features with five labels per class.",
                rows=networks,
                columns="task",
                metrics={"5 labels": metric},
            ),
            MeanTable(
                title="All labels",
                text="Logistic regression by L-BFGS at the layer that the method reads.",
                rows=networks,
                columns="task",
                metrics={"all labels": "eval/linear_top1"},
            ),
            Ranking(
                title="Rankings of the networks",
                text="Five labels per class.",
                metric=metric,
                items=networks,
                by="task",
            ),
            *((widths,) if size == "small" else ()),
            Scatter(
                title="Accuracy of the pretext task",
                text="The pretext accuracy is that of the last steps of training, on augmented "
                "images of the training set.",
                x="train/accuracy",
                y=metric,
                x_name="accuracy of the pretext task",
                y_name="accuracy, 5 labels per class",
                within=("task",),
            ),
            Best(
                title="Best layer",
                text="Logistic regression by L-BFGS; -1 is the last layer.",
                where={"protocol": "linear"},
                metric="eval/linear_top1",
                x="stage",
                rows=("architecture", "width", "task"),
                by="architecture",
            ),
            *(
                Lines(
                    title=f"Every layer of {task}",
                    text="Logistic regression by L-BFGS; -1 is the last layer.",
                    where={"task": task, "protocol": "linear"},
                    metric="eval/linear_top1",
                    name="accuracy, all labels",
                    x="stage",
                    curve=networks,
                )
                for task in TASKS
            ),
        ),
        limits=LIMITS if size == "small" else (),
    )


SETUP = (
    "Digits of 16 pixels (tiles of 7 for relative patch and jigsaw), 150 steps of 32 images for "
    "every network. `resnet` has three residual blocks, `vgg` has seven stages of convolutions "
    "without skip connections, whose stages are as wide as those of the ResNet at the same width."
)
LIMITS = (
    "Two architectures and two widths: Kendall's tau of four networks takes few values, and orders "
    "of networks whose difference is below the deviation mean nothing.",
    "The two architectures also differ in depth, stride and number of parameters.",
    "All networks take the same rate and few steps; the paper trains for 35 epochs of ImageNet.",
    "RevNet, ResNet v2 and the fractional pooling to 9,000 features are not part of it.",
)
