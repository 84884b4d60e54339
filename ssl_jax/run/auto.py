"""Automatic choice of a config for the user's own images, from the images and the machine."""

import functools
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import nets
from ssl_jax.core.errors import UserError
from ssl_jax.core.trust import load_file
from ssl_jax.cost import flops
from ssl_jax.data import sources
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources import Source, open_source
from ssl_jax.run import pretrained
from ssl_jax.run.configs import configs_folder
from ssl_jax.run.experiment import Experiment
from ssl_jax.run.flags import Override
from ssl_jax.training.step import Step

SIZES = (32, 48, 64, 96, 128, 160, 224)  # of a crop, in pixels
SAMPLE = 32  # images whose size is measured
FEWEST = 16  # minimum number of images to learn from


def choose(
    data: str,
    init_from: str = "",
    settings: Mapping[str, Any] = MappingProxyType({}),
    steps: int = 0,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Choose a config for the data set `data`; also return a line per choice with its reason, by
    its key.

    Args:
      init_from: run or weights file whose network is trained further, `train.init_from`.
      settings: keys of the section `backbone` that such a file does not specify.
      steps: training steps, on which the warmup depends too; 0 to choose them.

    Raises:
      UserError: too few images, or none that can be read; no such weights.
    """
    data = sources.absolute(data)  # messages name it as the run does
    source = open_source(data)
    devices = jax.devices()
    cpu = devices[0].platform == "cpu"
    side = typical_side(source)
    size = max((s for s in SIZES if s <= side), default=SIZES[0])
    size = min(size, 64 if cpu else 224)
    own, channels = pretrained.backbone_of(init_from, settings) if init_from else ({}, 0)
    if own:
        options = {key: value for key, value in own.items() if key != "name"}
        size = nets.backbone_config(own["name"], options).side(size)
    batch = batch_size(len(source), len(devices), 64 if cpu else 256)
    epoch = len(source) // batch
    fewest, epochs, most = (300, 100, 1000) if cpu else (2000, 200, 500_000)
    steps = steps or int(np.clip(epochs * epoch, fewest, most))
    many = len(source) >= 100_000 and size >= 128
    config = (
        load_file(configs_folder() / "auto.py", "config")
        .choose(data, size, batch, steps, not cpu, many)
        .to_dict()
    )
    if own:
        config["backbone"], config["train"]["init_from"] = own, init_from
        config["data"]["channels"] = channels
    backbone = config["backbone"]
    kind = backbone.get("depth") or backbone.get("size") or backbone.get("dim") or "small"
    why = f"as in {init_from}" if own else f"for {len(devices)} {devices[0].device_kind} device(s)"
    reasons = {
        "objective.name": f"method    {config['objective']['name']}",
        "objective.view": f"crops     {size} px; the images' typical short side is {side} px",
        "backbone": f"backbone  {backbone['name']} ({kind}) {why}",
        "train.batch_size": f"batch     {batch} of {len(source):,} images",
        "train.steps": f"steps     {steps:,}, {steps / epoch:.0f} passes over the images",
    }
    return config, reasons


def requested(overrides: Sequence[Override]) -> tuple[str, dict[str, Any], int]:
    """Read from --config flags what the choice depends on: the arguments `init_from`, `settings`
    and `steps` of `choose`.
    """
    texts = {key: str(value) for key, value in overrides}
    start, steps = texts.get("train.init_from", ""), texts.get("train.steps", "")
    keys = (
        (key.partition(".")[2], value) for key, value in overrides if key.startswith("backbone.")
    )
    return start, dict(keys) if start else {}, int(steps) if steps.isdecimal() else 0


def estimate(experiment: Experiment, step: Step, steps: int) -> str:
    """Estimate how long `steps` steps take at least, from two short measurements: the time of a
    batch on the host, and the rate of a convolution on the device, by which the FLOPs of `step` are
    divided. Small maps and all that is no convolution run at a lower rate.
    """
    batches = experiment.batches(0, 2)
    next(batches)  # starts the threads
    start = time.perf_counter()
    batch = next(batches)
    host = time.perf_counter() - start
    batches.close()
    work = flops.count(step, experiment.abstract_state, batch)
    device = work / (_convolution_rate() * experiment.mesh.size)
    return (
        f"time: at least {length(steps * max(host, device))} for {steps:,} steps on this machine, "
        "without compilation and evaluations"
    )


def length(seconds: float) -> str:
    """Format an estimated time: 40 -> "half a minute"."""
    for most, text in (
        (10, "a few seconds"),
        (45, "half a minute"),
        (90, "a minute"),
    ):
        if seconds < most:
            return text
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} hours"


@functools.cache
def _convolution_rate() -> float:
    """Measure the FLOP/s of a device in the forward and backward pass of a 3x3 convolution."""
    dtype = jnp.float32 if jax.devices()[0].platform == "cpu" else jnp.bfloat16
    shapes = (3, 3, 64, 64), (16, 32, 32, 64)
    kernel, images = jax.device_put([np.ones(shape, dtype) for shape in shapes])

    @jax.jit
    def gradients(kernel: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        def loss(kernel: jax.Array, images: jax.Array) -> jax.Array:
            layout = ("NHWC", "HWIO", "NHWC")
            out = jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=layout
            )
            return jnp.square(out.astype(jnp.float32)).sum()

        return jax.grad(loss, (0, 1))(kernel, images)

    jax.block_until_ready(gradients(kernel, images))  # compiles
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(gradients(kernel, images))
        seconds.append(time.perf_counter() - start)
    return flops.count(gradients, kernel, images) / min(seconds)


def typical_side(source: Source) -> int:
    """Return the median short side in pixels of a sample of the images."""
    if source.arrays is not None:
        return min(source.arrays.shape[1:3])
    reader = Reader(source, 0)
    rows = np.unique(np.linspace(0, len(source) - 1, SAMPLE).astype(np.int64))
    images = [reader.try_pixels(int(row)) for row in rows]
    sides = [min(image.shape[:2]) for image in images if image is not None]
    if not sides:
        raise UserError(f"{source.name}: none of {len(rows)} sampled images can be read")
    return int(np.median(sides))


def batch_size(examples: int, devices: int, most: int) -> int:
    """Return the number of devices times the largest power of two that gives at most `most` images
    and at most half of the data set.
    """
    if examples < max(FEWEST, 2 * devices):
        raise UserError(
            f"{examples} images are too few to learn from; use at least {max(FEWEST, 2 * devices)}"
        )
    batch = devices
    while 2 * batch <= min(max(most, devices), examples // 2):
        batch *= 2
    return batch
