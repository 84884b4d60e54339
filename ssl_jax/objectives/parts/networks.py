"""The networks of a method, called by name: backbone, projector, predictor, decoder."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.nets.functional import Net, init_all

Array = jax.Array
Tree = Any


@dataclass(frozen=True)
class Networks:
    """Networks that are trained together.

    Attributes:
      nets: networks by name.
      microbatches: number of chunks in which the networks in `chunked` run in training, each
        recomputed in the backward pass. The gradient stays exact for every loss over the whole
        batch, except through batch norm, whose statistics become those of a chunk.
      bn_groups: number of groups of consecutive rows; in training, batch norm normalises over each
        group, as if it were on its own device, and not over the whole batch. The running statistics
        are the means over the groups.
      chunked: names of the networks that are too large for the whole batch at once.
    """

    nets: Mapping[str, Net]
    microbatches: int = 1
    bn_groups: int = 1
    chunked: tuple[str, ...] = ("backbone",)

    def only(self, *names: str) -> Self:
        """Return the networks with these names: those that a teacher has, for example."""
        return replace(self, nets={name: self.nets[name] for name in names})

    def without_drop_path(self) -> Self:
        """Return the networks without stochastic depth, which a teacher's features do not have."""
        whole = {n: net.like(drop_path=0.0) if net.draws else net for n, net in self.nets.items()}
        return replace(self, nets=whole)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        """Create fresh (params, stats), one entry per network."""
        return init_all(key, **self.nets)

    def bind(self, params: Tree, stats: Tree, *, train: bool = True) -> "Bound":
        """Return the networks as functions of their inputs.

        Args:
          params: parameters by network, those of this method or of its teacher.
          stats: batch statistics by network; a network without batch norm needs no entry.
          train: whether batch norm uses and updates the statistics of the batch.
        """
        return Bound(self, params, stats, train)


class Bound:
    """Networks with their parameters, for one forward pass: `bound.NAME(*inputs, **options)` calls
    the network NAME. Create one per trace; do not return it from a jitted function.

    Example:
      nets = networks.bind(params, extra["stats"])
      z = nets.projector(nets.backbone(images).pooled)
      extra = {"stats": nets.stats}

    Attributes:
      stats: statistics by network after the calls so far.
    """

    def __init__(self, networks: Networks, params: Tree, stats: Tree, train: bool):
        self.stats = dict(stats)
        self._networks, self._params, self._train = networks, params, train

    def __getattr__(self, name: str) -> Callable[..., Any]:
        nets = self.__dict__.get("_networks", Networks({})).nets
        if name not in nets:
            raise AttributeError(f"no network {name!r}; there are {', '.join(nets)}")
        return functools.partial(self._call, name)

    def _call(self, name: str, *inputs: Any, **options: Any) -> Any:
        """Call a network and store its new statistics.

        Raises:
          UserError: `bn_groups` or `microbatches` does not divide the rows of an input.
        """
        networks, train = self._networks, self._train
        chunks = networks.microbatches if train and name in networks.chunked else 1
        arrays: dict[str, Any] = {
            k: x for k, x in options.items() if isinstance(x, (jax.Array, np.ndarray))
        }
        apply = functools.partial(
            networks.nets[name].apply,
            self._params[name],
            self.stats.get(name, {}),
            train=train,
            microbatches=chunks,
            **{k: x for k, x in options.items() if k not in arrays},
        )
        if train and networks.bn_groups != 1:
            out, stats = _by_group(apply, networks.bn_groups, inputs, arrays)
        else:
            out, stats = apply(*inputs, **arrays)
        if name in self.stats:
            self.stats[name] = stats
        return out


def _by_group(
    apply: Callable[..., tuple[Any, Tree]], groups: int, inputs: tuple, arrays: Mapping[str, Array]
) -> tuple[Any, Tree]:
    """Apply a network to each group of rows; return the rows in order and the mean statistics."""

    def split(x: Array) -> Array:
        if groups < 1 or x.shape[0] % groups:
            raise UserError(
                f"objective.bn_groups: {groups} groups do not divide a batch of {x.shape[0]}; use "
                "one of its divisors"
            )
        return x.reshape(groups, -1, *x.shape[1:])

    each = jax.vmap(lambda inputs, arrays: apply(*inputs, **arrays))
    out, stats = each(*jax.tree.map(split, (inputs, dict(arrays))))
    out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
    return out, jax.tree.map(lambda x: jnp.mean(x, axis=0), stats)
