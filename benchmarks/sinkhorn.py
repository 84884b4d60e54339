"""Sinkhorn-Knopp compared with the released forms: time, and reads of the matrix.

    python benchmarks/sinkhorn.py [--tpu]

SwAV's shape (4096 examples, 3000 prototypes, 3 iterations, float32) against
`distributed_sinkhorn` of facebookresearch/swav: Q normalised in place, rows and columns in turn.
SeLa's loop (31 iterations on the same matrix) against sinkhornknopp.py of yukimasano/self-label:
two products with the matrix per iteration. Each is written plainly in JAX under the same jit;
medians of `--rounds` alternating calls, wall and CPU milliseconds.

Reads and writes are counted in the compiled programs (`ssl_jax.cost.traffic`), loops multiplied by
their trip counts: `whole` is the whole program, including the read and write of the result,
`iteration` the cost of one more iteration.

With --tpu (needs libtpu, no chip), ahead of time: the same counts for one TPU v5e at 65536 x 3072
(larger than its vector memory), and SeLa's labels of 1,281,167 images, 3000 clusters, on 64 of
them: MiB per chip. Prints one JSON line.
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core.sharding import AXES, padded_rows
from ssl_jax.cost.traffic import Traffic, traffic
from ssl_jax.losses.sinkhorn import sinkhorn

Array = jax.Array
ROWS, COLUMNS, ITERATIONS, EPSILON = 4096, 3000, 3, 0.05
LONG = 31  # iterations of the SeLa comparison; SeLa checks convergence after that many
MORE = 10  # additional iterations, to measure the cost of one
TPU_ROWS, TPU_COLUMNS = 65536, 3072
IMAGES, CLUSTERS, FEATURES = 1_281_167, 3000, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tpu", action="store_true", help="ahead of time for TPU v5e")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    draws = np.random.default_rng(0).uniform(-0.6, 0.6, (ROWS, COLUMNS))
    scores = jnp.asarray(draws, jnp.float32)
    swav: dict[str, Callable] = {"released": released_swav, "scaling": ours("scaling")}
    swav["log"] = ours("log")
    sela = {"released": released_sela, "scaling": ours("scaling"), "log": ours("log")}
    shape = jax.ShapeDtypeStruct(scores.shape, scores.dtype)
    out = {
        "benchmark": "sinkhorn",
        "device": jax.devices()[0].device_kind,
        "swav": times(swav, scores, ITERATIONS, args.rounds),
        "sela": times(sela, scores, LONG, args.rounds),
        "reads": {
            "swav": {name: reads(form, shape, ITERATIONS) for name, form in swav.items()},
            "sela": {name: reads(form, shape, LONG) for name, form in sela.items()},
        },
        "tpu_v5e": ahead_of_time() if args.tpu else "not run",
        "rounds": args.rounds,
        "load": round(os.getloadavg()[0], 2),
    }
    print(json.dumps(out))


def ours(form: Any) -> Callable:
    return lambda scores, iterations: sinkhorn(scores, EPSILON, iterations, form=form)


def released_swav(scores: Array, iterations: int) -> Array:
    q = jnp.exp(scores / EPSILON).T
    count, batch = q.shape
    q /= jnp.sum(q)
    for _ in range(iterations):
        q /= jnp.sum(q, axis=1, keepdims=True)
        q /= count
        q /= jnp.sum(q, axis=0, keepdims=True)
        q /= batch
    return (q * batch).T


def released_sela(scores: Array, iterations: int) -> Array:
    a = jnp.exp(scores / EPSILON)
    rows, columns = a.shape
    dot = functools.partial(jnp.matmul, precision="highest")

    def iterate(_: Any, scales: tuple[Array, Array]) -> tuple[Array, Array]:
        r = 1 / columns / dot(scales[0], a)
        return 1 / rows / dot(a, r), r

    start = (jnp.full(rows, 1 / rows), jnp.zeros(columns))
    c, r = jax.lax.fori_loop(0, iterations, iterate, start)
    return a * r * (c * rows)[:, None]


def times(forms: dict[str, Callable], scores: Array, iterations: int, rounds: int) -> dict:
    compiled = {name: jax.jit(form, static_argnums=1) for name, form in forms.items()}
    wall: dict[str, list[float]] = {name: [] for name in forms}
    cpu: dict[str, list[float]] = {name: [] for name in forms}
    results = {name: np.asarray(run(scores, iterations)) for name, run in compiled.items()}
    for _ in range(rounds):
        for name, run in compiled.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(run(scores, iterations))
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - began_cpu)
    return {
        name: {
            "wall_ms": round(1e3 * statistics.median(wall[name]), 1),
            "cpu_ms": round(1e3 * statistics.median(cpu[name]), 1),
            "difference": float(np.abs(results[name] - results["released"]).max()),
        }
        for name in forms
    }


def reads(form: Callable, shape: Any, iterations: int, **options: Any) -> dict[str, float]:
    """Count reads and writes of the matrix, and MiB of temporary memory."""

    def count(iterations: int) -> tuple[Traffic, Any]:
        run = jax.jit(functools.partial(form, iterations=iterations), **options)
        compiled = run.lower(shape).compile()
        return traffic(compiled.as_text(), shape.size), compiled.memory_analysis()

    (few, memory), (more, _) = count(iterations), count(iterations + MORE)
    return {
        "whole_reads": round(few.reads, 2),
        "whole_writes": round(few.writes, 2),
        "iteration_reads": round((more.reads - few.reads) / MORE, 2),
        "iteration_writes": round((more.writes - few.writes) / MORE, 2),
        "temp_MiB": round(memory.temp_size_in_bytes / 2**20, 1),
    }


def ahead_of_time() -> dict[str, Any]:
    out: dict[str, Any] = {}
    mesh = chips("v5e:2x2", 1)
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, P(AXES))
        options = {"in_shardings": place, "out_shardings": place}
        shape = jax.ShapeDtypeStruct((TPU_ROWS, TPU_COLUMNS), jnp.float32)
        forms = {"released": released_swav} | {form: ours(form) for form in FORMS}
        for name, form in forms.items():
            out[name] = reads(form, shape, ITERATIONS, **options)
    mesh = chips("v5e:8x8", 64)
    with jax.set_mesh(mesh):
        out["sela_on_64_chips_MiB"] = {form: sela_memory(form, mesh) for form in FORMS}
    return out


FORMS = ("kernel", "scaling", "log")


def chips(topology: str, count: int) -> Mesh:
    devices = topologies.get_topology_desc(topology, platform="tpu").devices[:count]
    shape = (1, count, 1)
    return Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def sela_memory(form: Any, mesh: Mesh) -> dict[str, float]:
    """Measure the memory of labelling all images by one head from features, as SeLa does."""

    def label(features: Array, valid: Array, kernel: Array) -> Array:
        logits = jnp.matmul(features, kernel, precision="highest")
        probabilities = jax.nn.log_softmax(logits)
        options = {"tolerance": 0.1, "valid": valid, "form": form}
        return sinkhorn(probabilities, 1 / 25, 2000, **options).argmax(-1)

    rows, whole = NamedSharding(mesh, P(AXES)), NamedSharding(mesh, P())
    count = padded_rows(IMAGES)
    shapes = (
        jax.ShapeDtypeStruct((count, FEATURES), jnp.float32),
        jax.ShapeDtypeStruct((count,), bool),
        jax.ShapeDtypeStruct((FEATURES, CLUSTERS), jnp.float32),
    )
    run = jax.jit(label, in_shardings=(rows, rows, whole), out_shardings=rows)
    memory = run.lower(*shapes).compile().memory_analysis()
    return {
        "arguments": round(memory.argument_size_in_bytes / 2**20, 1),
        "temporary": round(memory.temp_size_in_bytes / 2**20, 1),
        "matrix": round(count / mesh.size * CLUSTERS * 4 / 2**20, 1),
    }


if __name__ == "__main__":
    main()
