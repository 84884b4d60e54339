"""Nearest neighbours of the kNN probe, against scikit-learn's brute force and faiss' flat index.

    python benchmarks/knn.py --peer_python=/tmp/vp/bin/python [--train=50000] [--test=10000]

The sides run in alternation, each in its own process, on the same unit vectors: ours computes the
weighted votes of the k nearest by cosine, the others only the k nearest; the second of two calls is
timed. `extra_mb` is the peak resident memory of both calls minus the resident memory between them.
Prints one JSON line of medians. Without --peer_python, an interpreter with faiss-cpu, faiss is "not
run".
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("ours", "scikit-learn", "faiss")
K, CLASSES = 20, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer_python", default="", help="interpreter with faiss-cpu")
    for name, default in (("train", 50_000), ("test", 10_000), ("width", 512), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--side", choices=SIDES, help="run only this side, here")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args)))
        return
    sides = SIDES if args.peer_python else SIDES[:2]
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    env = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "JAX_PLATFORMS": "cpu"}
    env |= {"PYTHONPATH": str(Path(__file__).parent.parent)}
    for _, side in itertools.product(range(args.rounds), sides):
        python = args.peer_python if side == "faiss" else sys.executable
        sizes = [f"--{n}={getattr(args, n)}" for n in ("train", "test", "width")]
        command = [python, __file__, f"--side={side}", *sizes]
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        measured[side].append(json.loads(done.stdout.splitlines()[-1]))
        print(side, measured[side][-1], file=sys.stderr, flush=True)
    out: dict[str, Any] = {"benchmark": "knn", "k": K} | {"faiss": "not run"}
    for side, rounds in measured.items():
        keys = rounds[0]
        out[side] = {key: round(statistics.median(r[key] for r in rounds), 2) for key in keys}
    print(json.dumps(out | {n: getattr(args, n) for n in ("train", "test", "width", "rounds")}))


def measure(args: argparse.Namespace) -> dict[str, float]:
    draw = np.random.default_rng(0)
    train, test = (
        draw.normal(size=(n, args.width)).astype(np.float32) for n in (args.train, args.test)
    )
    for rows in (train, test):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = draw.integers(0, CLASSES, args.train)
    run = {"ours": ours, "scikit-learn": scikit_learn, "faiss": faiss}[args.side]
    run(train, labels, test)  # compiles, loads libraries, starts threads
    before = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    run(train, labels, test)
    return {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "extra_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before,
    }


def resident() -> float:
    """Current resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def ours(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> Any:
    from ssl_jax.evals.protocols.knn import knn_accuracy

    return knn_accuracy(train, labels, test, np.zeros(len(test), int), CLASSES, [K])


def scikit_learn(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(K, algorithm="brute", metric="euclidean", n_jobs=-1)
    return model.fit(train, labels).predict(test)


def faiss(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> Any:
    import faiss as library

    index = library.IndexFlatIP(train.shape[1])
    index.add(train)
    return index.search(test, K)


if __name__ == "__main__":
    main()
