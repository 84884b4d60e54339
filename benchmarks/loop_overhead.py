"""Main-thread CPU time of the training loop beyond the step: progress, logging, data transfer.

    python benchmarks/loop_overhead.py

Alternates in one process between 1000 tiny steps through `training.loop.run`, with all parts of a
run (metrics file, TensorBoard, progress line, device prefetch), and the same step in a bare loop.
Prints one JSON line; `overhead_ms` is the median difference in main-thread CPU time per step.
"""

import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from ssl_jax.core import sharding
from ssl_jax.core.placement import prefetch_to_device
from ssl_jax.training import loop
from ssl_jax.training.metrics import MetricsWriter
from ssl_jax.training.progress import ProgressLine

STEPS, ROUNDS, BATCH = 1000, 5, 64


def main() -> None:
    mesh = sharding.make_mesh(sharding.MeshConfig())
    placed = sharding.batch_sharding(mesh)

    @jax.jit
    def step(state: jax.Array, batch: dict) -> tuple[jax.Array, dict]:
        loss = jnp.mean(batch["views"][0].astype(jnp.float32)) + state.sum()
        metrics = {"train/loss": loss, "train/lr": loss, "train/grad_norm": loss}
        return state * 0.999, metrics | {"bad_step": jnp.full((), -1, jnp.int32)}

    images = np.zeros((BATCH, 2, 16, 16, 1), np.uint8)
    host = [{"views": (images,), "index": np.arange(BATCH, dtype=np.int32)}] * STEPS
    state = jax.device_put(jnp.ones(1000, jnp.float32), sharding.replicated(mesh))

    def bare() -> float:
        batch = next(iter(prefetch_to_device(host[:2], placed)))
        current, began = state, time.thread_time()
        for _ in range(STEPS):
            current, _ = step(current, batch)
        seconds = time.thread_time() - began
        jax.block_until_ready(current)
        return seconds

    def whole() -> float:
        terminal = Console(file=io.StringIO(), force_terminal=True)
        with (
            tempfile.TemporaryDirectory() as folder,
            MetricsWriter(Path(folder), 0) as writer,
            ProgressLine(terminal, 0, STEPS) as progress,
        ):

            def log(at: int, values: dict) -> None:
                writer.write(at, values)
                progress.update(at, values)

            never = lambda *_: False  # noqa: E731
            hooks = loop.Hooks(lambda *_: {}, never, lambda *_: None, never, log)
            began = time.thread_time()
            loop.run(
                state,
                step,
                prefetch_to_device(host, placed),
                hooks,
                start=0,
                stop=STEPS,
                batch_size=BATCH,
                log_every=10,
            )
            return time.thread_time() - began

    bare(), whole()  # compile, import
    pairs = [(bare(), whole()) for _ in range(ROUNDS)]
    per_step = [1000 * (w - b) / STEPS for b, w in pairs]
    result = {
        "benchmark": "loop_overhead",
        "overhead_ms": round(statistics.median(per_step), 4),
        "bare_ms": round(1000 * statistics.median(b for b, _ in pairs) / STEPS, 4),
        "whole_ms": round(1000 * statistics.median(w for _, w in pairs) / STEPS, 4),
        "steps": STEPS,
        "rounds": ROUNDS,
        "log_every": 10,
        "device": jax.devices()[0].device_kind,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
