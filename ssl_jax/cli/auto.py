"""The recipe for somebody's own images, chosen from the images and the machine."""

from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources import Source, open_source

SIZES = (32, 48, 64, 96, 128, 160, 224)  # of a crop, in pixels
SAMPLE = 32  # images whose size is looked at
FEWEST = 16  # images that anything can be learned from


def choose(data: str) -> tuple[dict[str, Any], list[str]]:
    """A config for the data set `data`, and what was chosen and why, a line each.

    Raises:
      UserError: too few images, or none that can be read.
    """
    source = open_source(data)
    devices = jax.devices()
    cpu = devices[0].platform == "cpu"
    side = _typical_side(source)
    size = max((s for s in SIZES if s <= side), default=SIZES[0])
    size = min(size, 64 if cpu else 224)
    batch = _batch_size(len(source), len(devices), 64 if cpu else 256)
    epoch = len(source) // batch
    if cpu:
        backbone: dict[str, Any] = {"name": "resnet_small", "width": 32}
        steps = int(np.clip(100 * epoch, 300, 1000))
    else:
        deep = len(source) >= 100_000 and size >= 128
        stem = "imagenet" if size > 64 else "cifar"
        backbone = {"name": "resnet", "depth": 50 if deep else 18, "stem": stem}
        backbone["dtype"] = "bfloat16"
        steps = int(np.clip(200 * epoch, 2000, 500_000))
    recipe = "simclr" if size > 64 else "simclr_cifar"
    config = {
        "objective": {
            "name": "simclr",
            "view": {"size": size, "count": 2, "area": (0.2, 1.0), "recipe": recipe},
            "projector": (512, 128),
            "temperature": 0.2,
        },
        "backbone": backbone,
        "data": {"train": data},
        "optim": {
            "name": "adamw",
            "lr": 1e-3,
            "weight_decay": 1e-4,
            "warmup_steps": steps // 10,
        },
        "train": {"steps": steps, "batch_size": batch, "log_every": 10 if cpu else 50},
        "checkpoint": {"every": max(steps // 10, 50)},
    }
    name = "a small ResNet" if cpu else f"ResNet-{backbone['depth']}"
    reasons = [
        "method    simclr, which learns from small batches and cannot collapse",
        f"crops     {size} px; the images' typical short side is {side} px",
        f"backbone  {name}, for {len(devices)} {devices[0].device_kind} device(s)",
        f"batch     {batch} of {len(source):,} images",
        f"steps     {steps:,}, {steps / epoch:.0f} passes over the images",
    ]
    return config, reasons


def _typical_side(source: Source) -> int:
    """Median short side in pixels over a sample of the images that can be read."""
    if source.arrays is not None:
        return min(source.arrays.shape[1:3])
    reader = Reader(source, 0)
    rows = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64))
    images = [reader.try_pixels(int(row)) for row in rows]
    sides = [min(image.shape[:2]) for image in images if image is not None]
    if not sides:
        raise UserError(f"{source.name}: none of {len(rows)} images looked at can be read")
    return int(np.median(sides))


def _batch_size(examples: int, devices: int, most: int) -> int:
    """The largest power of two up to `most` that is at most half the images, on all devices."""
    if examples < max(FEWEST, 2 * devices):
        raise UserError(
            f"{examples} images are too few to learn from: at least {max(FEWEST, 2 * devices)}"
        )
    batch = devices
    while 2 * batch <= min(max(most, devices), examples // 2):
        batch *= 2
    return batch
