"""Temporary memory per chip of exact InfoNCE over a pod, compiled ahead of time without a chip.

    python benchmarks/contrastive_memory.py --topology=v5e:16x16 --batch=1048576 --dim=512

Value and gradient with respect to queries, keys and temperature, float32, rows split over all
chips; each form of the similarities is compiled for the same topology by libtpu (`pip install
libtpu`). Arguments and outputs are the embeddings and their gradients, which every form has.
`temporary_mb` is the program's additional HBM. It does not count temporaries that the compiler
keeps in on-chip memory: `alive_mb` is the peak of all live bytes minus arguments and outputs. If a
form does not compile, its entry holds the reason. Prints one JSON line.
"""

import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from ssl_jax.core import sharding
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.large_batch.similarity import Similarity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:16x16")
    parser.add_argument("--batch", type=int, default=1048576)
    parser.add_argument("--dim", type=int, default=512)
    args = parser.parse_args()
    devices = topologies.get_topology_desc(args.topology, platform="tpu").devices
    mesh = sharding.make_mesh(sharding.MeshConfig(), devices)
    forms = {form: compile_form(form, mesh, args.batch, args.dim) for form in ("ring", "dense")}
    shape = {"topology": args.topology, "chips": mesh.size, "batch": args.batch, "dim": args.dim}
    print(json.dumps({"benchmark": "contrastive_memory"} | shape | forms))


def compile_form(form: Similarity, mesh: Mesh, batch: int, dim: int) -> dict[str, Any]:
    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    vectors = jax.ShapeDtypeStruct((batch, dim), jnp.float32, sharding=rows)
    temperature = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    loss = lambda q, k, t: jnp.mean(infonce(q, k, t, similarity=form))  # noqa: E731
    began = time.perf_counter()
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.value_and_grad(loss, (0, 1, 2)), out_shardings=(whole, (rows, rows, whole))
        )
        try:
            memory = step.lower(vectors, vectors, temperature).compile().memory_analysis()
        except jax.errors.JaxRuntimeError as error:
            return {"does_not_compile": str(error).split("HLO module")[0].strip()}
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    return {
        "temporary_mb": round(memory.temp_size_in_bytes / 1e6, 2),
        "alive_mb": round((memory.peak_memory_in_bytes - arguments - outputs) / 1e6, 2),
        "arguments_mb": round(arguments / 1e6, 2),
        "outputs_mb": round(outputs / 1e6, 2),
        "compile_s": round(time.perf_counter() - began, 1),
    }


if __name__ == "__main__":
    main()
