"""Networks applied one after another: backbone, projector, predictor, or backbone, classifier."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.nets.functional import Net, init_all

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Branch:
    """A chain of named networks; the first is a backbone, whose "pooled" features the second one
    reads.

    Attributes:
      nets: (name, network) in order.
      microbatches: number of chunks in which the backbone runs, each recomputed in the backward
        pass. The gradient stays exact for every loss over the whole batch, except through batch
        norm, whose statistics become those of a chunk.
      bn_groups: number of groups of consecutive rows; in training, batch norm normalises over each
        group, as if it were on its own device, and not over the whole batch. The running statistics
        are the means over the groups.
    """

    nets: tuple[tuple[str, Net], ...]
    microbatches: int = 1
    bn_groups: int = 1

    def then(self, **nets: Net) -> Self:
        """Return the chain extended by `nets`, in order."""
        return dataclasses.replace(self, nets=(*self.nets, *nets.items()))

    def init(self, key: Array) -> tuple[Tree, Tree]:
        """Create fresh (params, stats), one entry per network."""
        return init_all(key, **dict(self.nets))

    def apply(
        self, params: Tree, stats: Tree, images: Array, *, train: bool = True
    ) -> tuple[dict[str, Any], Tree]:
        """Return outputs by name and the new statistics, for normalised images (N, H, W, C).

        The backbone's entry is its `Features`, the others' are (N, D) arrays.

        Raises:
          UserError: `bn_groups` does not divide N.
        """
        if not train or self.bn_groups == 1:
            return self._apply(params, stats, images, train=train)
        if self.bn_groups < 1 or images.shape[0] % self.bn_groups:
            raise UserError(
                f"objective.bn_groups: {self.bn_groups} groups do not divide a batch of "
                f"{images.shape[0]}; use one of its divisors"
            )
        groups = images.reshape(self.bn_groups, -1, *images.shape[1:])
        each = jax.vmap(functools.partial(self._apply, train=True), (None, None, 0))
        out, stats = each(params, stats, groups)
        out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
        return out, jax.tree.map(lambda x: jnp.mean(x, axis=0), stats)

    def apply_each(
        self, params: Tree, stats: Tree, views: Sequence[Array]
    ) -> tuple[list[dict[str, Any]], Tree]:
        """Apply the chain to one view after another, so that batch norm sees each by itself."""
        outs = []
        for images in views:
            out, stats = self.apply(params, stats, images)
            outs.append(out)
        return outs, stats

    def finish(self, params: Tree, stats: Tree, pooled: Array) -> Array:
        """Compute the last network's output from the backbone's "pooled" features (B, D), in
        evaluation mode. The trees need no entry for the backbone.
        """
        for name, net in self.nets[1:]:
            pooled, _ = net.apply(params[name], stats[name], pooled, train=False)
        return pooled

    def _apply(
        self, params: Tree, stats: Tree, images: Array, *, train: bool
    ) -> tuple[dict[str, Any], Tree]:
        out, stats, x = {}, dict(stats), images
        for i, (name, net) in enumerate(self.nets):
            chunks = self.microbatches if i == 0 else 1
            y, stats[name] = net.apply(
                params[name], stats[name], x, train=train, microbatches=chunks
            )
            out[name] = y
            x = y.pooled if i == 0 else y
        return out, stats
