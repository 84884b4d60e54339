"""Sixty settings of the linear probe trained at once, and one after another.

    python benchmarks/linear_probe.py [--examples=50000] [--width=512] [--settings=60] [--rounds=3]

Both train the same heads on the same batches (`ssl_jax.evals.protocols.linear`, preset "simclr",
--epochs epochs); compilation is not timed. Prints one JSON line: medians of wall and CPU seconds.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ssl_jax.evals.images import Labelled
from ssl_jax.evals.protocols.linear import PRESETS, train_heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("examples", 50_000), ("width", 512), ("classes", 10), ("settings", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    features = draw.normal(size=(args.examples, args.width)).astype(np.float32)
    data = Labelled(features, draw.integers(0, args.classes, args.examples))
    training = dataclasses.replace(PRESETS["simclr"], epochs=args.epochs, batch_size=args.batch)
    rates = np.geomspace(1e-3, 1, args.settings).astype(np.float32)
    decays = np.geomspace(1e-6, 1e-3, args.settings).astype(np.float32)

    def together() -> list:
        return train_heads(data, args.classes, training, rates, decays)

    def alone() -> list:
        return [
            train_heads(data, args.classes, training, rates[i : i + 1], decays[i : i + 1])[0]
            for i in range(args.settings)
        ]

    gap = max(
        float(np.abs(a.weight - b.weight).max())
        for a, b in zip(together(), alone(), strict=True)  # both compile here
    )
    times: dict[str, list[dict[str, float]]] = {"together": [], "alone": []}
    for _ in range(args.rounds):
        times["together"].append(timed(together))
        times["alone"].append(timed(alone))
    out: dict[str, Any] = vars(args) | {"device": jax.devices()[0].device_kind, "gap": gap}
    for name, rounds in times.items():
        keys = rounds[0]
        out[name] = {key: round(statistics.median(r[key] for r in rounds), 3) for key in keys}
    out["ratio_wall"] = round(out["alone"]["wall_s"] / out["together"]["wall_s"], 2)
    out["ratio_cpu"] = round(out["alone"]["cpu_s"] / out["together"]["cpu_s"], 2)
    print(json.dumps(out))


def timed(fn: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


if __name__ == "__main__":
    main()
