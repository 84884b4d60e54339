"""Device-side augmentation: time per view of each operation next to a plain version of it, and the
chain's share of a train step.

    python benchmarks/augment.py [--tpu]

On the current device: CPU or wall milliseconds per 224 px view (crop: CIFAR's 32 px), median of
`--rounds` alternating calls on a batch of 16. "Plain" is the straightforward implementation. With
--tpu (needs libtpu, no chip), ahead of time for one TPU v5e: the FLOPs and bytes of SimCLR's chain
and of the whole train step with a ResNet-50 and with a ViT-B/16 (64 images, two views), as the
compiled programs' cost analysis counts them, and the time for each at the chip's peak rates. Prints
one JSON line.
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import crop, filters, geometric, levels, photometric, recipes
from ssl_jax.augment.jitter import DRAWS, color_jitter
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.cost import chips
from ssl_jax.run.configs import load_config
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.state import abstract
from ssl_jax.training.step import make_kernel

Array = jax.Array
SIZE, BATCH, SMALL = 224, 16, 32
STRENGTH = (0.8, 0.8, 0.8, 0.2)
V5E = chips.TPUS["v5e"]
STEP_BATCH = 64
NETS = {
    "resnet50": {"name": "resnet", "depth": 50, "dtype": "bfloat16"},
    "vit_b16": {"name": "vit", "size": "base", "patch": 16, "dtype": "bfloat16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tpu", action="store_true", help="ahead of time for a TPU v5e")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    out = {
        "benchmark": "augment",
        "device": jax.devices()[0].device_kind,
        "ms_per_view": {name: compare(*pair, args.rounds) for name, pair in pairs().items()},
        "tpu_v5e": ahead_of_time() if args.tpu else "not run",
        "rounds": args.rounds,
        "load": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(out))


def compare(ours: Callable, plain: Callable, args: tuple, rounds: int) -> dict[str, float]:
    """Measure median milliseconds per view of both, and the speedup of ours."""
    compiled = {"ours": jax.jit(ours), "plain": jax.jit(plain)}
    on_cpu = jax.devices()[0].platform == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for name in compiled:
        jax.block_until_ready(compiled[name](*args))
    for _ in range(rounds):
        for name, run in compiled.items():
            began = clock()
            jax.block_until_ready(run(*args))
            seconds[name].append(clock() - began)
    ms = {name: 1000 * statistics.median(s) / BATCH for name, s in seconds.items()}
    return {k: round(v, 3) for k, v in ms.items()} | {"times": round(ms["plain"] / ms["ours"], 2)}


def pairs() -> dict[str, tuple[Callable, Callable, tuple]]:
    """Map each operation to (ours, plain, arguments)."""
    draw = np.random.default_rng(0)
    planes = draw.random((BATCH, 3, SIZE, SIZE), np.float32)
    turns = draw.uniform(-0.2, 0.2, BATCH).astype(np.float32)
    sigmas = draw.uniform(*recipes.BLUR_SIGMA, BATCH).astype(np.float32)
    draws = draw.random((BATCH, DRAWS), np.float32)
    pictures = draw.integers(0, 256, (BATCH, SMALL, SMALL, 3), np.uint8)
    boxes = np.array([[i // 2, 3, 32 - i // 2, 12 + i] for i in range(BATCH)], np.int32)
    matrices = np.stack([np.eye(2, 3, dtype=np.float32) + 0.01 * i for i in range(BATCH)])
    images = draw.integers(0, 256, (BATCH, 1, SIZE, SIZE, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), (BATCH, 1))
    chain = recipes.recipe("simclr")
    radius = filters.blur_radius(SIZE)
    return {
        "hue": (jax.vmap(photometric.hue), jax.vmap(plain_hue), (planes, turns)),
        "jitter": (
            jax.vmap(lambda im, d: color_jitter(im, d, STRENGTH)),
            jax.vmap(plain_jitter),
            (planes, draws),
        ),
        "blur": (
            jax.vmap(lambda im, s: filters.gaussian_blur(im, s, radius)),
            jax.vmap(lambda im, s: plain_blur(im, s, radius)),
            (planes, sigmas),
        ),
        "equalize": (jax.vmap(levels.equalize), jax.vmap(plain_equalize), (planes,)),
        "crop": (
            jax.vmap(lambda im, box: crop.crop_resize(im, box, SMALL)),
            jax.vmap(plain_crop),
            (pictures, boxes),
        ),
        "affine": (
            jax.vmap(geometric.warp),
            jax.vmap(plain_warp),
            (np.moveaxis(planes, 1, -1), matrices),
        ),
        "chain": (
            functools.partial(recipes.serial, chain),
            functools.partial(recipes.batched, chain),
            (keys, images),
        ),
    }


def plain_hue(image: Array, turn: Array) -> Array:
    red, green, blue = image
    value, low = image.max(0), image.min(0)
    spread = value - low
    safe = jnp.where(spread > 0, spread, 1.0)
    sixth = jnp.where(
        value == red,
        jnp.mod((green - blue) / safe, 6.0),
        jnp.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    h = jnp.mod(sixth / 6.0 + turn, 1.0) * 6.0
    s = jnp.where(value > 0, spread / jnp.where(value > 0, value, 1.0), 0.0)
    i = jnp.floor(h)
    f = h - i
    p, q, t = value * (1 - s), value * (1 - s * f), value * (1 - s * (1 - f))
    sector = jnp.mod(i, 6.0).astype(jnp.int32)
    faces = [(value, t, p), (q, value, p), (p, value, t), (p, q, value), (t, p, value)]
    faces.append((value, p, q))
    return jnp.stack([jax.lax.select_n(sector, *channel) for channel in zip(*faces, strict=True)])


def plain_jitter(image: Array, draws: Array) -> Array:
    """Apply four operations in random order: one switch for each of four places."""
    factor = 1.0 + 0.8 * (2.0 * draws[:3] - 1.0)
    turn = 0.2 * (2.0 * draws[3] - 1.0)
    operations = [
        lambda im: photometric.adjust(im, photometric.brightness(im, factor[0])),
        lambda im: photometric.adjust(im, photometric.contrast(im, factor[1])),
        lambda im: photometric.adjust(im, photometric.saturation(im, factor[2])),
        lambda im: plain_hue(im, turn),
    ]
    for place in jnp.argsort(draws[:4]):
        image = jax.lax.switch(place, operations, image)
    return image


def plain_blur(image: Array, sigma: Array, radius: int) -> Array:
    """Blur by a depthwise convolution along each axis."""
    at = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    taps = jnp.exp(-(at**2) / (2 * sigma**2))
    taps = taps / taps.sum()
    x = image[:, None]
    for kernel in (taps[None, None, :, None], taps[None, None, None, :]):
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME")
    return x[:, 0]


def plain_equalize(image: Array) -> Array:
    def channel(plane: Array) -> Array:
        level = jnp.round(plane * 255.0).astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[level.reshape(-1)].add(1)
        last = counts[255 - jnp.argmax(counts[::-1] > 0)]
        step = (level.size - last) // 255
        table = (jnp.cumsum(counts) - counts + step // 2) // jnp.maximum(step, 1)
        return jnp.where(step > 0, jnp.clip(table, 0, 255)[level], level) / 255.0

    return jax.vmap(channel)(image)


def plain_crop(image: Array, box: Array) -> Array:
    top, left, height, width = box.astype(jnp.float32)
    scale = SMALL / jnp.stack([height, width])
    shift = -jnp.stack([top, left]) * scale
    out = jax.image.scale_and_translate(
        image.astype(jnp.float32), (SMALL, SMALL, 3), (0, 1), scale, shift, "linear"
    )
    return jnp.round(out).astype(jnp.uint8)


def plain_warp(image: Array, matrix: Array) -> Array:
    y, x = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in image.shape[:2]), indexing="ij")
    middle = [(n - 1) / 2 for n in image.shape[:2]]
    y, x = y - middle[0], x - middle[1]
    at = [row[0] * y + row[1] * x + row[2] + m for row, m in zip(matrix, middle, strict=True)]
    sample = functools.partial(jax.scipy.ndimage.map_coordinates, order=1, mode="constant")
    return jnp.stack([sample(image[..., c], at) for c in range(3)], axis=-1)


def ahead_of_time() -> dict[str, Any]:
    """Compute the cost of the chain and its share of the step, for one TPU v5e."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    from jax.experimental import topologies

    topology = topologies.get_topology_desc("v5e:2x2", platform="tpu")
    chip = jax.sharding.SingleDeviceSharding(topology.devices[0])
    runs = {name: experiment(net) for name, net in NETS.items()}
    inputs = next(iter(runs.values())).objective.inputs()
    batch = abstract_batch(inputs)
    key = jax.eval_shape(lambda: jax.random.key(0))
    chain = cost(functools.partial(recipes.augment, inputs), chip, batch, key)
    views = STEP_BATCH * inputs.views[0].count
    out: dict[str, Any] = {
        "chain_mflop_per_view": round(chain["flops"] / views / 1e6, 1),
        "chain_mb_per_view": round(chain["bytes"] / views / 1e6, 2),
    }
    for name, run in runs.items():
        kernel = make_kernel(run.objective, run.tx, run.schedule)
        # The cost analysis counts a loop's body once, so unroll all loops.
        with mock.patch("jax.lax.scan", functools.partial(jax.lax.scan, unroll=True)):
            step = cost(kernel, chip, abstract(run.objective, run.tx), batch)
        out[name] = {
            "share_of_flops": round(chain["flops"] / step["flops"], 4),
            "share_of_bytes": round(chain["bytes"] / step["bytes"], 4),
            "share_of_time_at_the_peaks": round(bound(chain) / bound(step), 4),
        }
    return out


def experiment(net: dict[str, Any]) -> Experiment:
    config = load_config("simclr:imagenet")
    spec = {"global_batch": STEP_BATCH, "num_examples": 1_281_167, "num_classes": 1000}
    spec |= {"steps_per_epoch": 20_000, "total_steps": 2_000_000, "channels": 3}
    train = {"batch_size": STEP_BATCH, "epochs": 100}
    return Experiment.from_config(config | {"backbone": net, "spec": spec, "train": train})


def abstract_batch(inputs: Inputs) -> dict[str, Any]:
    def shape(view: View) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(
            (STEP_BATCH, view.count, view.size, view.size, 3), np.dtype(np.uint8)
        )

    index = jax.ShapeDtypeStruct((STEP_BATCH,), np.dtype(np.int32))
    return {"views": tuple(shape(view) for view in inputs.views), "index": index}


def cost(fn: Callable, where: jax.sharding.Sharding, *args: Any) -> dict[str, float]:
    """Count FLOPs and bytes of the compiled program."""
    compiled = jax.jit(fn, in_shardings=where, out_shardings=where).lower(*args).compile()
    analysis = compiled.cost_analysis()
    return {"flops": analysis["flops"], "bytes": analysis["bytes accessed"]}


def bound(work: dict[str, float]) -> float:
    """Seconds at the chip's peak rates, with arithmetic and memory traffic overlapping."""
    return max(work["flops"] / V5E.flops, work["bytes"] / V5E.bandwidth)


if __name__ == "__main__":
    main()
