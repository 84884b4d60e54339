"""HBM traffic of SimCLR's step compared with plain supervised training of the same network.

    python benchmarks/step_bytes.py [--topology=v5e:2x2] [--images=64]

Both are compiled ahead of time for the same TPU slice (needs libtpu but no TPU) with the same
number of 224 px uint8 images per chip: `simclr:imagenet` with two views of --images images, without
augmentation, and the ResNet-50 of flax layers below with SGD and cross-entropy on 2 x --images
labelled images. Bytes are those read and written in HBM (`ssl_jax.cost.program`). Prints one JSON
line.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssl_jax.core import sharding
from ssl_jax.cost import program

ENV = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--images", type=int, default=64, help="images of SimCLR per chip")
    parser.add_argument("--hlo", default="", help="folder for the programs' texts")
    parser.add_argument("--child", choices=("simclr", "supervised"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(one_side(args)))
        return
    results = {}
    for side in ("simclr", "supervised"):  # in own processes, as libtpu writes to the terminal
        run = subprocess.run(
            [sys.executable, __file__, f"--child={side}", *sys.argv[1:]],
            env=os.environ | ENV,
            capture_output=True,
            text=True,
        )
        if run.returncode:
            sys.exit(run.stderr[-2000:])
        results[side] = json.loads(run.stdout.splitlines()[-1])
    ratio = results["simclr"]["mb_per_image"] / results["supervised"]["mb_per_image"]
    print(json.dumps({"topology": args.topology, **results, "ratio": round(ratio, 4)}))


def one_side(args: argparse.Namespace) -> dict[str, Any]:
    from ssl_jax.run.compile_worker import devices

    chips = devices(args.topology, 1)
    make = ours if args.child == "simclr" else supervised
    text = make(chips, 2 * args.images * len(chips))
    if args.hlo:
        with open(f"{args.hlo}/{args.child}.txt", "w") as file:  # noqa: PTH123
            file.write(text)
    costs, images = program.count(text), 2 * args.images
    return {
        "images_a_chip": images,
        "mb_per_image": round(costs.bytes / images / 1e6, 3),
        "gflop_per_image": round(costs.flops / images / 1e9, 3),
    }


def ours(chips: Any, images: int) -> str:
    """Compile SimCLR's step on `images` views of half as many images; return its text."""
    from ssl_jax.cost import aot
    from ssl_jax.run.compile import with_spec
    from ssl_jax.run.configs import configured
    from ssl_jax.run.experiment import Experiment

    changes = [("train.batch_size", images // 2), ("objective.view.recipe", "none")]
    config = with_spec(configured("simclr:imagenet", changes))
    run = Experiment.from_config(config, devices=chips)
    placed = (run.abstract_state, run.placed)
    report, text = aot.compile_step(run.objective, run.tx, run.schedule, run.mesh, *placed)
    assert report.fits, report.message
    return text


class Bottleneck(nn.Module):
    """Bottleneck of 1x1, 3x3 with the stride, 1x1 to four times the width (ResNet "v1.5")."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = functools.partial(nn.Conv, use_bias=False, dtype=jnp.bfloat16)
        norm = functools.partial(nn.BatchNorm, use_running_average=False, dtype=jnp.bfloat16)
        stride, shortcut = (self.stride, self.stride), x
        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.width, (3, 3), stride)(y)))
        y = norm(scale_init=nn.initializers.zeros)(conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            shortcut = norm()(conv(4 * self.width, (1, 1), stride)(x))
        return nn.relu(shortcut + y)


class ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(64, (7, 7), (2, 2), ((3, 3), (3, 3)), use_bias=False, dtype=jnp.bfloat16)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False, dtype=jnp.bfloat16)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                x = Bottleneck(64 * 2**stage, 2 if stage and not block else 1)(x)
        return nn.Dense(1000, dtype=jnp.float32)(x.mean((1, 2)).astype(jnp.float32))


def supervised(chips: Any, images: int) -> str:
    """Compile a step of cross-entropy and SGD with momentum; return its text."""
    mesh = sharding.make_mesh(sharding.MeshConfig(), chips)
    net, tx = ResNet50(), optax.sgd(0.1, momentum=0.9, nesterov=True)

    def step(variables: Any, moments: Any, batch: Any) -> Any:
        pixels = batch["images"].astype(jnp.float32) / 255.0

        def loss_fn(params: Any) -> Any:
            state = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, updated = net.apply(state, pixels, mutable=["batch_stats"])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return losses.mean(), updated["batch_stats"]

        params = variables["params"]
        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, moments = tx.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        return {"params": params, "batch_stats": stats}, moments, loss

    batch = {
        "images": jax.ShapeDtypeStruct((images, 224, 224, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((images,), jnp.int32),
    }
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), image)
    moments = jax.eval_shape(tx.init, variables["params"])
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    jitted = jax.jit(
        step, donate_argnums=(0, 1), in_shardings=(whole, whole, rows), out_shardings=whole
    )
    with jax.set_mesh(mesh):
        return jitted.lower(variables, moments, batch).compile().as_text()


if __name__ == "__main__":
    main()
