"""Object detection and instance segmentation by fine-tuning a detector of torchvision on the
network's weights, with pycocotools' metrics (extra `detection`).

The detector trains in a process of its own (`evals.detection_worker`), on the GPU that PyTorch sees
or else on the CPU. In a run of several processes the first starts it, and all wait for its numbers.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ssl_jax.augment.recipes import recipe, statistics
from ssl_jax.core import distributed
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.placement import whole
from ssl_jax.core.ranges import Count, NonNegative, Positive, Probability, Seed, Whole
from ssl_jax.core.tree import named_leaves
from ssl_jax.data import cache
from ssl_jax.data.boxes import BoxedImages
from ssl_jax.evals.base import Protocol, Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.nets.backbones.resnet import DEPTHS
from ssl_jax.objectives.base import Encoder
from ssl_jax.weights import timm

PACKAGES = ("torch", "torchvision", "pycocotools")
WORKER = "ssl_jax.evals.detection_worker"
POLL = 20.0  # seconds between two signs of progress while the detector trains


@dataclass(frozen=True, kw_only=True)
class Detection(Protocol):
    """Average precision of a detector that is fine-tuned from the network: AP, AP50 and AP75 as
    COCO defines them, in [0, 1], and AP50 of boxes whatever their class.

    The defaults are those of COCO's 1x schedule with a feature pyramid. Training is by SGD with
    momentum 0.9 and mirrored images. An interrupted measurement resumes; its files lie in the cache
    folder (`data.cache`) until it ends.

    Attributes:
      train, test: data sets with boxes, `coco:ROOT` or `voc:ROOT`; without `test` it is the
        held-out part of `train`, and without `train` nothing is measured.
      model: "faster_rcnn", "mask_rcnn" (needs outlines, as COCO has) or "retinanet", each with a
        feature pyramid, or "faster_rcnn_c4", whose head is the last stage.
      norm: "batch" trains the batch norms, with one more after each layer of the pyramid (MoCo); a
        step's images are on one device, so their statistics are those that a norm synchronised
        over several has. "frozen" fixes their statistics and scales.
      sizes: shorter sides that training draws from; the last one is that of the test.
      longest: longest side of an image.
      rois: candidate regions per image that the head of an R-CNN learns from; it takes most of the
        time where images are small.
      steps, batch_size, lr, weight_decay: settings of the training by SGD.
      warmup: steps in which the rate rises on a line.
      drops: shares of the steps after which the rate is divided by 10.
      classes: names of classes whose own AP and AP50 are measured too.
      seed: seed of the order of the images, of their mirroring and of the new layers.
    """

    scores: ClassVar[tuple[str, ...]] = ("detection_",)
    decides: ClassVar[tuple[str, ...]] = ("detection_ap50",)
    titles: ClassVar[Mapping[str, str]] = {
        "detection_ap": "Detection, AP",
        "detection_ap50": "Detection, AP50",
        "detection_ap75": "Detection, AP75",
        "detection_agnostic_ap50": "Detection, AP50 whatever the class",
        "detection_mask_ap": "Detection, AP of masks",
        "detection_mask_ap50": "Detection, AP50 of masks",
        "detection_mask_ap75": "Detection, AP75 of masks",
        "detection_ap_{kind}": "Detection, AP of {kind}",
        "detection_ap50_{kind}": "Detection, AP50 of {kind}",
    }
    labels: ClassVar[bool] = False
    needs: ClassVar[str] = "a network, and images with boxes (train=coco:ROOT or voc:ROOT)"

    train: str = ""
    test: str = ""
    model: Literal["faster_rcnn", "faster_rcnn_c4", "mask_rcnn", "retinanet"] = "faster_rcnn"
    norm: Literal["batch", "frozen"] = "batch"
    sizes: tuple[Count, ...] = (640, 672, 704, 736, 768, 800)
    longest: Count = 1333
    rois: Count = 512
    steps: Count = 90_000
    batch_size: Count = 16
    lr: Positive = 0.02
    weight_decay: NonNegative = 1e-4
    warmup: Whole = 1000
    drops: tuple[Probability, ...] = (2 / 3, 8 / 9)
    classes: tuple[str, ...] = ()
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sizes or max(self.sizes) > self.longest:
            raise UserError(
                f"detection: expected sizes of at most longest={self.longest}, got {self.sizes}"
            )

    def unused(self) -> Mapping[str, str]:
        unused = {} if self.train else {"test": "there is no train"}
        if self.model == "retinanet":
            unused["rois"] = "retinanet learns from all places"
        return unused

    def applies(self, subject: Subject) -> bool:
        """Return whether there are a network and images with boxes."""
        return bool(self.train) and subject.encoder is not None

    def check(self, subject: Subject) -> None:
        super().check(subject)
        if absent := distributed.agreed(_absent):
            raise UserError(
                f"detection: {', '.join(absent)} is missing; run pip install -e '.[detection]' in "
                "the folder of ssl_jax"
            )
        if subject.images.channels != 3:
            raise NotMeasurable(f"detection: expected 3 channels, got {subject.images.channels}")

    def measure(self, subject: Subject) -> dict[str, float]:
        assert subject.encoder is not None
        images, (train, test) = subject.images, BoxedImages.pair(self.train, self.test)
        if unknown := next((name for name in self.classes if name not in train.classes), ""):
            raise UserError(
                f"detection.classes: no class {unknown!r}; {suggest(unknown, train.classes)}"
            )
        if self.model == "mask_rcnn":
            self._check_outlines(train, test)
        tensors, network = exported(subject.encoder, images.channels)
        mean, std = statistics(recipe(images.view.recipe), images.channels)
        request = {
            "settings": dataclasses.asdict(self),
            "network": network,
            "mean": np.broadcast_to(mean, 3).tolist(),
            "std": np.broadcast_to(std, 3).tolist(),
        }
        parts = {"request": request, "train": to_coco(train), "test": to_coco(test)}
        numbers = run({name: json.dumps(part) for name, part in parts.items()}, tensors)
        return {f"detection_{name}": value for name, value in numbers.items()}

    def _check_outlines(self, *parts: BoxedImages) -> None:
        for part in parts:
            if any(shape is None for row in part.objects for shape in row.outlines):
                raise UserError(
                    f"detection.model=mask_rcnn: {part.name} has objects without outlines; use "
                    "faster_rcnn"
                )


def _absent() -> list[str]:
    """Return the packages that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def exported(encoder: Encoder, channels: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return torchvision's tensors of a ResNet, and its sizes; see `detection_models.exported`.

    Raises:
      NotMeasurable: torchvision has no such network, or it is no ResNet.
    """
    config = encoder.net.config
    if config is None or config.layout != "resnet":
        title = getattr(config, "title", "this network")
        raise NotMeasurable(f"detection: expected a ResNet of torchvision's layout, got {title}")
    backbone = dataclasses.asdict(config.explicit()) | {"name": "resnet"}
    trees = whole((encoder.params, encoder.stats))
    variables = {k: np.asarray(x, np.float32) for t in trees for k, x in named_leaves(t).items()}
    try:
        tensors, _ = timm.export(variables, backbone, channels, "torchvision")
    except UserError as e:
        raise NotMeasurable(f"detection: {str(e).partition(';')[0]}") from None
    kind, stages = DEPTHS[backbone["depth"]]
    filters = backbone["num_filters"] * backbone["width"]
    return tensors, {"kind": kind, "stages": stages, "filters": filters, "stem": backbone["stem"]}


def to_coco(part: BoxedImages) -> dict[str, Any]:
    """Return the annotations in COCO's format, with absolute file names and classes from 1; ignored
    objects are crowds.
    """
    annotations: list[dict[str, Any]] = []
    for number, objects in enumerate(part.objects):
        rows = zip(*(column.tolist() for column in objects[:3]), objects.outlines, strict=True)
        for (left, top, right, bottom), kind, ignored, outline in rows:
            width, height = right - left, bottom - top
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": kind + 1,
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": int(ignored),
            }
            annotations.append(entry | ({"segmentation": outline} if outline else {}))
    return {
        "images": [
            {"id": i, "file_name": str(file.absolute())} for i, file in enumerate(part.files)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(part.classes, 1)],
        "annotations": annotations,
    }


def run(texts: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Run the worker in the first process, and return its numbers in all processes.

    Raises:
      NotMeasurable: the worker reported why it cannot measure.
      UserError: it failed, or the files cannot be written.
    """
    answers = _answers(texts, tensors)
    # What goes wrong in the first process is an answer too: the others wait for one.
    while (answer := distributed.agreed(lambda: next(answers))) is None:
        distributed.tick()
    if "failure" in answer:
        raise UserError(f"detection: {answer['failure']}")
    if "error" in answer:
        raise NotMeasurable(f"detection: {answer['error']}")
    return answer["numbers"]  # type: ignore[no-any-return]


def _answers(
    texts: Mapping[str, str], tensors: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any] | None]:
    """Run the worker on files with these texts and weights. Yield None every `POLL` seconds, then
    its results, or {"failure": message} without any. The folder of the files is named by their
    content, so that the same request resumes.
    """
    digest = hashlib.blake2b(digest_size=8)
    for text in texts.values():
        digest.update(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    path = os.pathsep.join(filter(None, sys.path))
    try:
        folder = cache.folder() / "detection" / digest.hexdigest()
        results, log = folder / "results.json", folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / f"{name}.json").write_text(text)
        np.savez(folder / "weights.npz", allow_pickle=False, **tensors)
        results.unlink(missing_ok=True)
        with log.open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", WORKER, str(folder)],
                stdout=output,
                stderr=output,
                env=os.environ | {"PYTHONPATH": path},
            )
    except OSError as e:
        reason = e.strerror or e
        yield {"failure": f"cannot write to the cache ({reason}); set SSL_JAX_CACHE to a folder"}
        return
    try:
        while _running(process):
            yield None
    finally:  # of an interrupted measurement too
        process.kill()
        process.wait()
    if not results.is_file():
        lines = [line.strip() for line in log.read_text().splitlines() if line.strip()]
        last = (lines or ["no output"])[-1]
        yield {"failure": f"its process exited with code {process.returncode}: {last}; see {log}"}
        return
    content = json.loads(results.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    yield content


def _running(process: subprocess.Popen[bytes]) -> bool:
    """Wait for a process for `POLL` seconds; return whether it still runs."""
    try:
        process.wait(POLL)
    except subprocess.TimeoutExpired:
        return True
    return False
