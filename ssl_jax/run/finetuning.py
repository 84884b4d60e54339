"""Config of the fine-tuning of a run, or of a weights file, to labelled images."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax import nets
from ssl_jax.augment.recipes import recipe
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import Source, held_out, open_source
from ssl_jax.data.survey import survey
from ssl_jax.objectives.base import Probe
from ssl_jax.run import auto, fixed, orbax_export, weights_file
from ssl_jax.run.classifier import shows_several
from ssl_jax.run.configs import configs_folder, load_file, override
from ssl_jax.run.datasets import range_of
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.flags import Override
from ssl_jax.weights import networks

FOLD = "1/5"  # part that tests the classifier if there are no evaluation images
FEWEST = 5  # images of which a fifth can be taken
ENOUGH = 25  # images that leave a batch to learn from, without those that test and choose
EPOCHS = 50
LEAST_AREA = 0.35  # of a crop: smaller ones often miss what the label names
CALM = 0.5  # factor of the run's colour jitter and noise, which hide what some labels name
DROP_PATH = 0.1
UNCHANGED = ("normalize", "normalize_half", "normalize_clip")  # recipes of public files
# Changes of photographs, where no run says how images may be changed.
PHOTOS: Mapping[str, Any] = {"flip": 0.5, "jitter": (0.4, 0.4, 0.4, 0.1)}


@dataclass(frozen=True)
class Start:
    """A run or a weights file from which fine-tuning starts.

    Attributes:
      name: the run's folder, or the file of weights.
      view: how the network sees images.
      probe: where the method's representation is read.
      backbone: the section `backbone` of a config.
      channels: of the images.
      value_range: values that become 0 to 255, for pixels that are not 8-bit; () if unknown.
    """

    name: str
    view: View
    probe: Probe
    backbone: dict[str, Any]
    channels: int
    value_range: tuple[float, ...]

    @classmethod
    def of(cls, name: str, settings: Mapping[str, Any]) -> "Start":
        """Read the description of a run or of a file of weights.

        Args:
          settings: keys of the section `backbone` that a public file does not specify.

        Raises:
          UserError: no such run or file, or it does not describe its network.
        """
        path = Path(name)
        if fixed.is_run(path):
            run = Experiment.of_run(path)
            views = run.objective.inputs().views
            if not views:
                raise UserError(f"{name}: its method reads no images of one size")
            backbone = {"name": run.backbone_name} | dict(run.raw.get("backbone", {}))
            probe, channels, levels = run.objective.probe, run.spec.channels, range_of(run.raw)
            return cls(name, views[0], probe, backbone, channels, levels)
        file = orbax_export.read_any(path)
        weights = networks.of_file(file, name, settings)
        usual = weights_file.normalization(file, path)
        view, probe, config = weights_file.preprocessing(weights, usual)
        levels = range_of(config)
        return cls(name, view, probe, dict(weights.backbone), weights.channels, levels)

    @property
    def training_view(self) -> dict[str, Any]:
        """The view of fine-tuning: the run's own first view, with larger crops, half of its colour
        jitter and noise, and no change to grey, blur, solarization or new background.
        """
        chain = recipe(self.view.recipe)
        if self.view.recipe in UNCHANGED:
            chain = dataclasses.replace(chain, **PHOTOS)
        chain = dataclasses.replace(
            chain, gray_p=0.0, blur_p=0.0, solarize_p=0.0, gray_first=False, background=None
        )
        low, high = self.view.area
        low = min(max(low, LEAST_AREA), high)
        return {
            "size": self.view.size,
            "area": (low, high),
            "recipe": dataclasses.asdict(chain),
            "strength": CALM * self.view.strength if chain.scalable else 1.0,
            "interpolation": self.view.interpolation,
        }

    @property
    def trained_backbone(self) -> dict[str, Any]:
        """The section `backbone`, with stochastic depth where the network has it, and with the
        pooling that the method's representation has.
        """
        fields = {f.name for f in dataclasses.fields(nets.backbone_class(self.backbone["name"]))}
        backbone = dict(self.backbone)
        if "drop_path" in fields:
            backbone["drop_path"] = backbone.get("drop_path") or DROP_PATH
        backbone.pop("drop_path_groups", None)  # they divide the batch of the pretraining
        if "pool" in fields and self.probe == Probe(-1, "avg"):
            backbone["pool"] = "avg"
        return backbone


def choose(
    start: Start,
    data: str,
    eval_data: str,
    holdout: float,
    init_from: str,
    overrides: Sequence[Override] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Choose the config, and describe in lines what was chosen.

    Raises:
      UserError: data without labels, of other channels, or too few of them; invalid overrides.
    """
    source = open_source(data)
    check_labels(source)
    test = open_source(eval_data, "eval") if eval_data else held_out(data)
    if test is not None:
        check_labels(test)
        check_alike(source, test)
        check_classes(source, test)
    elif len(source) < FEWEST:
        raise UserError(
            f"{source.name}: {len(source)} images are too few to learn from and to test on; give "
            f"at least {ENOUGH}, or test images by --eval_data"
        )
    section: dict[str, Any] = {"train": data, "eval": eval_data or None, "holdout": holdout}
    section |= {"channels": start.channels, "fold": "" if test is not None else FOLD}
    check_channels(source, start.channels, start.name)
    labels = 0
    if shows_several(source):
        assert source.label_sets is not None
        labels = source.label_sets.most
    elif np.any(source.labels < 0):  # type: ignore[operator]
        section["labelled"] = "100%"
    if measured := survey(source, start.channels).value_range:
        section["range"] = start.value_range or measured
    module = load_file(configs_folder() / "finetune.py", "config")

    def config(batch: int, steps: int) -> dict[str, Any]:
        view, backbone = start.training_view, start.trained_backbone
        made = module.choose(section, view, backbone, init_from, batch, steps, labels).to_dict()
        override(made, [pair for pair in overrides if not pair[0].startswith("train.init_from")])
        return made  # type: ignore[no-any-return]

    count = Experiment.from_config(config(1, 1)).facts.examples
    devices = jax.devices()
    cpu = devices[0].platform == "cpu"
    batch = auto.batch_size(count, len(devices), 64 if cpu else 128)
    fewest, most = (200, 1000) if cpu else (500, 20_000)
    steps = int(np.clip(EPOCHS * count // batch, fewest, most))
    for key, value in overrides:  # the warmup and the checkpoints follow the number of steps
        if key == "train.steps" and str(value).isdecimal() and int(str(value)):
            steps = int(str(value))
    tested = "the evaluation images" if test is not None else "a fifth of the images"
    return config(batch, steps), [
        f"chosen    {steps:,} steps of {batch} of {count:,} labelled images, after a linear probe",
        f"tested on {tested}"
        + (f"; {holdout:g} of the others choose the classifier" if holdout else ""),
    ]


def check_labels(source: Source) -> None:
    """Check that a data set has labels of two classes.

    Raises:
      UserError: it has not.
    """
    if shows_several(source):
        assert source.label_sets is not None
        if len(source.class_names) < 2 or not source.label_sets.most:
            raise UserError(
                f"{source.name}: {len(source.class_names)} classes, and an image shows at most "
                f"{source.label_sets.most}; fine-tuning needs two classes or more, and labels"
            )
        return
    classes = 0 if source.labels is None else len(np.unique(source.labels[source.labels >= 0]))
    if classes < 2:
        raise UserError(
            f"{source.name}: {'no labels' if not classes else 'labels of one class only'}; "
            "fine-tuning needs labels of two classes or more, such as a folder of images per class"
        )


def check_alike(train: Source, test: Source) -> None:
    """Check that the images to learn from and those to test on both have several labels each, or
    one each.

    Raises:
      UserError: they differ.
    """
    several, others = (shows_several(source) for source in (train, test))
    if several != others:
        counts = [
            "several labels per image" if x else "one label per image" for x in (several, others)
        ]
        raise UserError(
            f"{train.name} has {counts[0]} and {test.name} {counts[1]}; give evaluation images "
            "with labels of the same kind"
        )


def check_classes(source: Source, test: Source) -> None:
    """Check that the test images are of classes of the training images. Classes that only have
    numbers fit any others.

    Raises:
      UserError: both have names, and none in common.
    """
    named = [
        names for names in (source.class_names, test.class_names) if not "".join(names).isdecimal()
    ]
    if len(named) == 2 and not set(named[0]) & set(named[1]):
        learned, tested = (
            ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") for names in named
        )
        raise UserError(
            f"{test.name}: its classes ({tested}) are none of {source.name} ({learned}); give test "
            "images of the same classes"
        )


def check_channels(source: Source, channels: int, reader: str) -> None:
    """Check that a network that reads `channels` can read the images.

    Raises:
      UserError: it cannot; grey and colour are converted into each other, nothing else is.
    """
    own = source.arrays.shape[-1] if source.arrays is not None else survey(source).bands
    if own != channels and not (own in (1, 3) and channels in (1, 3)):
        raise UserError(
            f"{source.name} has images of {own} channels, and {reader} reads {channels}; give "
            "images with the same channels"
        )
