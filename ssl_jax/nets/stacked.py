"""Several networks of one kind side by side, as one network with stacked parameters."""

from typing import Any

import jax

from ssl_jax.core.tree import Array, Tree
from ssl_jax.nets.functional import Net


def stacked(net: Net, count: int) -> Net:
    """Return `count` networks like `net`, each with weights of its own, as one network.

    Every input and output (B, count, ...) has an entry per network on its second axis; parameters
    and statistics have one on their first. One program computes all of them, which compiles in the
    time of one.
    """

    def init(key: Array) -> tuple[Tree, Tree]:
        made: tuple[Tree, Tree] = jax.vmap(net.init)(jax.random.split(key, count))
        return made

    def apply(
        params: Tree, stats: Tree, *arrays: Array, microbatches: int = 1, **options: Any
    ) -> tuple[Any, Tree]:
        def run(params: Tree, stats: Tree, *arrays: Array) -> tuple[Any, Tree]:
            return net.apply(params, stats, *arrays, microbatches=microbatches, **options)

        axes = (0, 0, *[1] * len(arrays))
        return jax.vmap(run, in_axes=axes, out_axes=(1, 0))(params, stats, *arrays)  # type: ignore[no-any-return]

    return Net(init, apply, f"{count}x_{net.name}")
