"""Communication that runs beside computation, of programs compiled for a TPU slice and not run.

    python benchmarks/overlap.py [--topology=v5e:4x4] [--options={}]

Compiles (needs libtpu but no TPU) the ring form of NT-Xent, forward and backward, and the training
step of a perceptron, a loop over layers whose weights are split over the slice. Prints one JSON
line: per program and kind of collective the MB per chip, and how many of them move while the chip
computes.
"""

import argparse
import json
import os

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core.sharding import MeshConfig, batch_sharding, gather_weights, make_mesh, replicated
from ssl_jax.cost import program
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.run.compile_worker import devices

LAYERS, WIDTH, HIDDEN, ROWS = 8, 1024, 4096, 4096  # of the perceptron and its batch
EMBEDDINGS, FEATURES = 32_768, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--options", default="{}", help="of the perceptron's compiler, JSON")
    args = parser.parse_args()
    chips = devices(args.topology, 1)
    options = json.loads(args.options)
    programs = {"ring": ring(chips), "perceptron": perceptron(chips, options)}
    print(json.dumps({"topology": args.topology} | programs))


def ring(chips: list) -> dict[str, tuple[float, float]]:
    mesh = make_mesh(MeshConfig(), chips)
    rows = batch_sharding(mesh)
    z = jax.ShapeDtypeStruct((EMBEDDINGS, FEATURES), jnp.float32, sharding=rows)
    step = jax.jit(
        jax.value_and_grad(lambda z: ntxent(z, 0.1, similarity="ring")),
        out_shardings=(replicated(mesh), rows),
    )
    return moved(step, mesh, z)


def perceptron(chips: list, options: dict[str, str]) -> dict[str, tuple[float, float]]:
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1), chips)
    split = NamedSharding(mesh, P(None, "fsdp"))
    weights = [
        jax.ShapeDtypeStruct((LAYERS, *shape), jnp.float32, sharding=split)
        for shape in ((WIDTH, HIDDEN), (HIDDEN, WIDTH))
    ]
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16, sharding=batch_sharding(mesh))

    def layer(x: jax.Array, weights: list[jax.Array]) -> tuple[jax.Array, None]:
        first, second = gather_weights([w.astype(jnp.bfloat16) for w in weights])
        return x + jax.nn.gelu(x @ first) @ second, None

    def loss(weights: list[jax.Array], x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(jax.lax.scan(layer, x, weights)[0]))

    def step(weights: list[jax.Array], x: jax.Array) -> list[jax.Array]:
        return [w - 0.1 * g for w, g in zip(weights, jax.grad(loss)(weights, x), strict=True)]

    compiled = jax.jit(
        step, donate_argnums=0, out_shardings=[split, split], compiler_options=options
    )
    return moved(compiled, mesh, weights, x)


def moved(step: jax.stages.Wrapped, mesh: jax.sharding.Mesh, *args) -> dict:
    """Return kind of collective -> (MB per chip, MB of these beside computation)."""
    with jax.set_mesh(mesh):
        traffic = program.count(step.lower(*args).compile().as_text()).traffic
    megabytes = {t.kind: (t.bytes / 1e6, t.beside / 1e6) for t in traffic if t.bytes > 1e3}
    return {kind: tuple(round(x, 1) for x in sizes) for kind, sizes in megabytes.items()}


if __name__ == "__main__":
    main()
