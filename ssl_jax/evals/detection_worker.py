"""Process that trains and scores a detector with torchvision: `python -m
ssl_jax.evals.detection_worker FOLDER` (extra `detection`).

FOLDER holds `request.json`, `weights.npz` and the annotations `train.json` and `test.json` in
COCO's format, with absolute file names; the process writes `results.json`, {"numbers"} or {"error"}
for the user. It saves `checkpoint.pt` every minute and resumes from it, and stops when its parent
has gone.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as outlines
from torch.utils.data import DataLoader, Dataset

from ssl_jax.data.masks import read_image
from ssl_jax.evals import detection_models
from ssl_jax.evals.detection_scores import average_precisions

EVERY = 60.0  # seconds between two checkpoints
LOGGED = 20  # steps between two lines
MOMENTUM = 0.9
Example = tuple[torch.Tensor, dict[str, torch.Tensor]]


def main(folder: Path) -> None:
    try:
        result: dict[str, Any] = {"numbers": work(folder)}
    except (ValueError, ArithmeticError, OSError) as e:
        result = {"error": " ".join(str(e).split())}
    (folder / "results.json").write_text(json.dumps(result))


def work(folder: Path) -> dict[str, float]:
    """Train and score; return the numbers."""
    request = json.loads((folder / "request.json").read_text())
    train, test = (json.loads((folder / f"{part}.json").read_text()) for part in ("train", "test"))
    settings = request["settings"]
    torch.manual_seed(settings["seed"])
    with np.load(folder / "weights.npz", allow_pickle=False) as content:
        tensors = {name: torch.from_numpy(content[name]) for name in content.files}
    model = detection_models.build(
        detection_models.exported(**request["network"], tensors=tensors),
        settings["model"],
        settings["norm"],
        1 + len(train["categories"]),
        settings["rois"],
        min_size=tuple(settings["sizes"]),
        max_size=settings["longest"],
        image_mean=request["mean"],
        image_std=request["std"],
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fit(
        model.to(device),
        TrainingExamples(train, settings),
        settings,
        device,
        folder / "checkpoint.pt",
    )
    kinds = ("bbox", "segm") if settings["model"] == "mask_rcnn" else ("bbox",)
    predictions = detections(model, test, device, masks="segm" in kinds)
    numbers = average_precisions(test, predictions, "bbox", settings["classes"])
    if "segm" in kinds:
        boxless = [{k: v for k, v in d.items() if k != "bbox"} for d in predictions]
        scores = average_precisions(test, boxless, "segm")
        numbers |= {f"mask_{k}": v for k, v in scores.items() if not k.startswith("agnostic")}
    return numbers


class TrainingExamples(Dataset):
    """The examples of all steps in order: the images with objects, in a new order in each epoch,
    half of them mirrored.
    """

    def __init__(self, content: dict[str, Any], settings: dict[str, Any]) -> None:
        objects: dict[int, list[Any]] = {}
        for a in content["annotations"]:
            if not a["iscrowd"]:
                objects.setdefault(a["image_id"], []).append(a)
        files = {image["id"]: image["file_name"] for image in content["images"]}
        self.rows = [(files[i], entries) for i, entries in objects.items()]
        self.seed, self.masks = settings["seed"], settings["model"] == "mask_rcnn"
        self.start, self.count = 0, settings["steps"] * settings["batch_size"]

    def __len__(self) -> int:
        return self.count - self.start

    def __getitem__(self, place: int) -> Example:
        epoch, at = divmod(self.start + place, len(self.rows))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        file, entries = self.rows[order[at]]
        image = read(file)
        height, width = image.shape[1:]
        corners = torch.tensor([a["bbox"] for a in entries], dtype=torch.float32)
        corners[:, 2:] += corners[:, :2]
        corners[:, 0::2].clamp_(0, width)
        corners[:, 1::2].clamp_(0, height)
        usable = (corners[:, 2:] > corners[:, :2]).all(1)
        targets = {"labels": torch.tensor([a["category_id"] for a in entries]), "boxes": corners}
        if self.masks:
            shapes = [a["segmentation"] for a in entries]
            targets["masks"] = torch.stack([rasterised(s, height, width) for s in shapes])
        targets = {k: v[usable] for k, v in targets.items()}
        if np.random.default_rng([self.seed, epoch, at]).random() < 0.5:
            image = image.flip(2)
            left, top, right, bottom = targets["boxes"].unbind(1)
            targets["boxes"] = torch.stack([width - right, top, width - left, bottom], 1)
            if self.masks:
                targets["masks"] = targets["masks"].flip(2)
        return image, targets


def fit(
    model: torch.nn.Module,
    examples: TrainingExamples,
    settings: dict[str, Any],
    device: torch.device,
    checkpoint: Path,
) -> None:
    """Train by SGD with momentum 0.9, a linear warmup and a tenth of the rate after each drop.

    Raises:
      ArithmeticError: the loss is not finite.
    """
    steps, batch = settings["steps"], settings["batch_size"]
    trained = [p for p in model.parameters() if p.requires_grad]
    rule = torch.optim.SGD(trained, settings["lr"], MOMENTUM, weight_decay=settings["weight_decay"])
    start = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        rule.load_state_dict(saved["rule"])
        torch.set_rng_state(saved["random"].cpu())
        start = saved["step"]
        print(f"resumed at step {start}", file=sys.stderr)
    examples.start = start * batch
    workers = min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
    loader = DataLoader(examples, batch, num_workers=workers, collate_fn=list)
    parent, last = os.getppid(), time.monotonic()
    model.train()
    for step, rows in enumerate(loader, start):
        warmup = min(1.0, (step + 1) / max(settings["warmup"], 1))
        drops = sum(step >= share * steps for share in settings["drops"])
        for group in rule.param_groups:
            group["lr"] = settings["lr"] * warmup * 0.1**drops
        images = [image.to(device) for image, _ in rows]
        targets = [{k: v.to(device) for k, v in own.items()} for _, own in rows]
        losses = model(images, targets)
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise ArithmeticError(f"the detector diverged at step {step}; lower lr")
        rule.zero_grad()
        loss.backward()
        rule.step()
        if (step + 1) % LOGGED == 0:
            print(f"step {step + 1} of {steps}: loss {loss.item():.4f}", file=sys.stderr)
        gone = os.getppid() != parent
        if gone or time.monotonic() - last > EVERY or step + 1 == steps:
            save(checkpoint, model, rule, step + 1)
            last = time.monotonic()
        if gone:
            sys.exit("the parent has gone")


def save(file: Path, model: torch.nn.Module, rule: torch.optim.Optimizer, step: int) -> None:
    """Replace the checkpoint."""
    content = {"model": model.state_dict(), "rule": rule.state_dict(), "step": step}
    torch.save(content | {"random": torch.get_rng_state()}, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)


@torch.no_grad()
def detections(
    model: torch.nn.Module, content: dict[str, Any], device: torch.device, masks: bool
) -> list[dict[str, Any]]:
    """Return the detections in all images, in COCO's format."""
    model.eval()
    out = []
    for image in content["images"]:
        (predictions,) = model([read(image["file_name"]).to(device)])
        predictions = {k: v.cpu() for k, v in predictions.items()}
        for i in range(len(predictions["scores"])):
            left, top, right, bottom = predictions["boxes"][i].tolist()
            row = {
                "image_id": image["id"],
                "category_id": int(predictions["labels"][i]),
                "score": float(predictions["scores"][i]),
                "bbox": [left, top, right - left, bottom - top],
            }
            if masks:
                mask = (predictions["masks"][i, 0] > 0.5).numpy().astype(np.uint8)
                row["segmentation"] = outlines.encode(np.asfortranarray(mask))
            out.append(row)
    return out


def read(file: str) -> torch.Tensor:
    """Read an image (3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(read_image(Path(file))).permute(2, 0, 1).float() / 255


def rasterised(shape: Any, height: int, width: int) -> torch.Tensor:
    """Return the mask (H, W) uint8 of polygons or run lengths."""
    if isinstance(shape, list):
        shape = outlines.merge(outlines.frPyObjects(shape, height, width))
    elif isinstance(shape["counts"], list):
        shape = outlines.frPyObjects(shape, height, width)
    return torch.from_numpy(outlines.decode(shape))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
