"""NT-Xent, value and gradient: our tiled form, our dense form and lightly's NTXentLoss.

    python benchmarks/contrastive_loss.py --peer_python=/tmp/vp/bin/python

N images, two views each, embeddings of 128 features at temperature 0.1: similarities of 2N x 2N.
Each round runs every side once, each in its own process, on the CPU: one warm-up call, then the
timed ones. `extra_mb` is the peak resident memory during a call minus the resident memory before
it, with inputs and compiled program in place. Prints one JSON line of medians, and each measurement
to stderr.
Without --peer_python, an interpreter with torch and lightly (../shared/bench_peer), lightly is "not
run". The second size compares our two forms alone.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DIM, TEMPERATURE = 128, 0.1
SIDES = ("tiled", "dense", "lightly")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer_python", default="", help="interpreter with torch and lightly")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--calls", type=int, default=3, help="timed calls per round at N against lightly"
    )
    parser.add_argument("--small", type=int, default=4096, help="N for all sides")
    parser.add_argument("--large", type=int, default=16384, help="N for our two forms only")
    parser.add_argument("--side", choices=SIDES, help="run only this side, in this process")
    args = parser.parse_args()
    if args.side:
        side = lightly if args.side == "lightly" else ours
        print(json.dumps(measure(side(args.side, args.small), args.calls)))
        return
    result: dict[str, Any] = {"benchmark": "contrastive_loss", "dim": DIM}
    sides = SIDES if args.peer_python else SIDES[:2]
    result["small"] = compare(args, args.small, sides, args.calls)
    result["large"] = compare(args, args.large, SIDES[:2], 1)
    print(json.dumps(result | {"rounds": args.rounds, "load": round(os.getloadavg()[0], 2)}))


def compare(
    args: argparse.Namespace, count: int, sides: tuple[str, ...], calls: int
) -> dict[str, Any]:
    measured: dict[str, list[dict]] = {side: [] for side in sides}
    for _, side in itertools.product(range(args.rounds), sides):
        python = args.peer_python if side == "lightly" else sys.executable
        command = [python, __file__, f"--side={side}", f"--small={count}", f"--calls={calls}"]
        # Spinning idle threads of torch would count as CPU time and disturb the other sides.
        quiet = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "JAX_PLATFORMS": "cpu"}
        root = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        env = os.environ | quiet | root
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        measured[side].append(json.loads(done.stdout.splitlines()[-1]))
        print(count, side, measured[side][-1], file=sys.stderr, flush=True)
    medians = {
        side: {k: round(statistics.median(m[k] for m in many), 1) for k in many[0]}
        for side, many in measured.items()
    }
    ours = medians["tiled"]
    over = {
        f"{side}_over_tiled": {k: round(medians[side][k] / ours[k], 2) for k in ours}
        for side in sides[1:]
    }
    if "lightly" not in sides and count == args.small:
        over["lightly_over_tiled"] = "not run"  # type: ignore[assignment]
    return {"n": count, **medians, **over}


def measure(call: Callable[[], Any], calls: int) -> dict[str, float]:
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    call()
    extra = status("VmHWM") - before
    wall, cpu = [], []
    for _ in range(calls):
        wall_began, cpu_began = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - wall_began)
        cpu.append(time.process_time() - cpu_began)
    return {
        "wall_ms": 1e3 * statistics.median(wall),
        "cpu_ms": 1e3 * statistics.median(cpu),
        "extra_mb": extra,
    }


def status(entry: str) -> float:
    """Read an entry of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1e3


def ours(form: str, count: int) -> Callable[[], Any]:
    import jax
    import numpy as np

    from ssl_jax.losses.ntxent import ntxent

    z = np.random.default_rng(0).normal(size=(2 * count, DIM)).astype(np.float32)
    z = jax.device_put(z)
    loss = jax.jit(jax.value_and_grad(lambda z: ntxent(z, TEMPERATURE, similarity=form)))
    compiled = loss.lower(z).compile()
    warm = jax.jit(jax.value_and_grad(lambda z: ntxent(z, TEMPERATURE, similarity=form)))
    jax.block_until_ready(warm(z[:64]))  # threads and allocator
    return lambda: jax.block_until_ready(compiled(z))


def lightly(_: str, count: int) -> Callable[[], Any]:
    import torch

    for name in ("nms", "qnms"):  # torchvision's CUDA wheel needs them with a CPU build of torch
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", signature)
    from lightly.loss import NTXentLoss

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    views = [torch.randn(count, DIM, requires_grad=True) for _ in range(2)]
    loss = NTXentLoss(temperature=TEMPERATURE)
    warm = torch.randn(64, DIM, requires_grad=True)
    loss(warm, warm + 0.1).backward()

    def call() -> None:
        for view in views:
            view.grad = None
        loss(*views).backward()

    return call


if __name__ == "__main__":
    main()
