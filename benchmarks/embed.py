"""`ssl-jax embed` compared with the jitted forward pass alone on batches already on the device.

    python benchmarks/embed.py --data=parquet:cifar10-test.parquet [--net=small] [--rounds=3]

Both run alternately in one process, with random weights, after compilation. `embed` covers the
whole command from the first image read to the renamed file: reading, decoding, transfer, forward
pass, parts, assembly. `share` is the median over rounds of bare time / embed time: 1 means equally
fast; `share_of_cpu_time` is the same for the process's CPU time, which is more reliable on a busy
machine. Prints one JSON line.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax import nets
from ssl_jax.core import sharding
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import to_global
from ssl_jax.data.pipeline import eval_arrays
from ssl_jax.data.sources import open_source
from ssl_jax.embeddings import run
from ssl_jax.embeddings.encoder import ImageEncoder
from ssl_jax.objectives import base
from ssl_jax.objectives.base import Probe

NETS = {
    "small": ("resnet_small", {"width": 32}),
    "resnet18": ("resnet", {"depth": 18, "stem": "cifar"}),
    "resnet50": ("resnet", {"depth": 50, "stem": "cifar", "dtype": "bfloat16"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="as --data of ssl-jax")
    parser.add_argument("--net", choices=NETS, default="small")
    for name, default in (("size", 32), ("batch_size", 256), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    name, arch = NETS[args.net]
    source, mesh = open_source(args.data, "eval"), sharding.make_mesh(sharding.MeshConfig())
    net = nets.make_backbone(name, 3, arch)
    placed = sharding.replicated(mesh)
    params, stats = jax.jit(net.init, out_shardings=placed)(jax.random.key(0))
    plain = base.Encoder(params, stats, net)
    encoder = ImageEncoder.of(plain, View(args.size), Probe(), 3, {}, "random weights")
    with tempfile.TemporaryDirectory() as folder:
        job = run.Job(encoder, source, Path(folder, "e.npz"), mesh, args.batch_size)
        batches = [
            to_global(crops, sharding.batch_sharding(mesh))
            for crops, _ in eval_arrays(source, args.size, batch=job.batch)
        ]
        jax.block_until_ready(batches)

        def timed(fn: Callable[[], Any]) -> np.ndarray:
            """Measure wall seconds and CPU seconds of all threads."""
            began = time.perf_counter(), time.process_time()
            fn()
            return np.subtract((time.perf_counter(), time.process_time()), began)

        def bare() -> np.ndarray:
            with jax.set_mesh(mesh):
                forward = lambda: [run._read(encoder, crops) for crops in batches]  # noqa: E731
                return timed(lambda: jax.block_until_ready(forward()))

        def embed() -> np.ndarray:
            job.output.unlink(missing_ok=True)
            return timed(lambda: run.embed(job))

        with jax.set_mesh(mesh):
            jax.block_until_ready(run._read(encoder, batches[0]))
        job.settings  # noqa: B018 (a digest of weights and data, once per run)
        pairs = []
        for turn in range(args.rounds):
            if turn % 2:
                pairs.append((bare(), embed()))
            else:
                pairs.append((embed(), bare())[::-1])
    count, (bares, embeds) = len(source), np.swapaxes(pairs, 0, 1)
    per_second = {"bare": bares, "embed": embeds}
    result = {
        "benchmark": "embed",
        "net": args.net,
        "parameters": int(sum(np.prod(p.shape) for p in jax.tree.leaves(params))),
        "images": count,
        "batch": job.batch,
        **{
            f"{name}_images_per_second": round(count / float(np.median(seconds[:, 0])), 1)
            for name, seconds in per_second.items()
        },
        "share": round(float(np.median(bares / embeds, 0)[0]), 3),
        "share_of_cpu_time": round(float(np.median(bares / embeds, 0)[1]), 3),
        "shares": (bares / embeds)[:, 0].round(3).tolist(),
        "rounds": args.rounds,
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
