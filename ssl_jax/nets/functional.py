"""NNX modules as pure functions over plain nested dicts: the only bridge to flax."""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array, Tree
from ssl_jax.nets.features import Features


@dataclass(frozen=True, eq=False)
class Net:
    """A network without state of its own, hashable by identity: static metadata for `jax.jit`.

    Attributes:
      init: key -> (params, stats), nested dicts of float32 arrays with string keys, {} if there are
        none. `params` is trained by an optimizer, `stats` are the running statistics of batch norm.
      apply: `apply(params, stats, *arrays, train, microbatches=1, **options) -> (out, new_stats)`.
        Every positional or keyword array and every array of `out` has the batch as its first axis.
        With `train=False`, `stats` are returned unchanged. See `functional` for `microbatches`.
      name: name for messages and logs.
      attention: whether `apply(..., attention=True)` also returns what every token attends to; see
        `features.Features`.
      draws: whether `apply` in training needs `keys` (B,), one per example.
      config, channels: of a backbone, its config (`backbone.Backbone`) and the channels of its
        images; None and 0 for other networks.
    """

    init: Callable[[Array], tuple[Tree, Tree]]
    apply: Callable[..., tuple[Any, Tree]]
    name: str = ""
    attention: bool = False
    draws: bool = False
    config: Any = None
    channels: int = 0

    def like(self, channels: int | None = None, scale: float = 1.0, **options: Any) -> "Net":
        """Build another backbone of the same family, for a second network of a method.

        Example: `self.backbone.like(channels=1, scale=0.5)` reads one channel, with half the
        widths.

        Args:
          channels: channels of its images; by default the same.
          scale: factor of all its widths.
          options: options of the family to change.

        Raises:
          UserError: this is not a backbone; an unknown option, with the nearest known ones; a
            width that is no longer a whole number.
        """
        if self.config is None:
            raise UserError(f"{self.name or 'this network'} is no backbone to build others like it")
        net: Net = (
            self.config.changed(**options)
            .scaled(scale)
            .net(self.channels if channels is None else channels)
        )
        return net


def preceded(net: Net, change: Callable[[Array], Array]) -> Net:
    """Return the same network for images that `change` turns into its inputs."""

    def apply(
        params: Tree, stats: Tree, images: Array, *arrays: Array, **options: Any
    ) -> tuple[Any, Tree]:
        return net.apply(params, stats, change(images), *arrays, **options)

    return replace(net, apply=apply)


def functional(
    make: Callable[[nnx.Rngs], nnx.Module],
    name: str = "",
    attention: bool = False,
    draws: bool = False,
    remat: Callable[..., Any] | None = None,
) -> Net:
    """Return the pure (init, apply) pair of the module that `make` builds.

    The module may hold variables of type `nnx.Param` and `nnx.BatchStat` only (no stored
    `nnx.Rngs`), and its `__call__` takes `train` by keyword. Outside `init` it is only ever built
    abstractly, so nothing runs eagerly: a step can be traced for a topology of absent devices.

    `apply(..., microbatches=k)` runs k chunks of the batch one after another and recomputes each in
    the backward pass, so that one chunk's activations are held at a time. Chunk j is the rows j::k:
    with a batch sharded in contiguous blocks every device keeps rows of every chunk. Output rows
    keep their order. The result equals that of k = 1, gradients included, except with batch norm,
    whose statistics are then those of each chunk (the running ones pass from chunk to chunk). This
    is gradient caching (Gao et al. 2021, arXiv:2101.06983) for any loss.

    With a policy `remat` (`jax.checkpoint_policies`) the backward pass keeps of the forward pass in
    training what the policy names and recomputes the rest.

    Raises:
      UserError: from `apply`, if k does not divide the batch, or the trees belong to another
        network.
    """

    @functools.cache
    def abstract() -> tuple[nnx.GraphDef, dict, dict]:
        return _split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))

    @jax.jit  # its trace is used by every program that calls it
    def init(key: Array) -> tuple[Tree, Tree]:
        _, params, stats = _split(make(nnx.Rngs(key)))
        return _string_keys(params), _string_keys(stats)

    def apply(
        params: Tree,
        stats: Tree,
        *arrays: Array,
        train: bool,
        microbatches: int = 1,
        **options: Any,
    ) -> tuple[Any, Tree]:
        if microbatches != 1:
            return in_chunks(microbatches, params, stats, arrays, options | {"train": train})
        graphdef, params_like, stats_like = abstract()
        states = (
            nnx.State(_own_keys(params, params_like)),
            nnx.State(_own_keys(stats, stats_like)),
        )

        def run(states: tuple[nnx.State, ...], arrays: tuple[Array, ...]) -> tuple[Any, Tree]:
            module = nnx.merge(graphdef, *states, copy=True)
            _check_inputs(module, options, name)
            out = module(*arrays, train=train, **options)
            if not train:
                return out, stats
            return out, _string_keys(nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))

        if train and remat is not None:
            run = jax.checkpoint(run, policy=remat)
        with jax.named_scope("forward"):
            return run(states, arrays)

    def in_chunks(
        count: int, params: Tree, stats: Tree, arrays: tuple, options: dict
    ) -> tuple[Any, Tree]:
        named = {k: v for k, v in options.items() if isinstance(v, (jax.Array, np.ndarray))}
        static = {k: v for k, v in options.items() if k not in named}
        chunks = jax.tree.map(lambda x: _chunked(x, count), (arrays, named))

        @functools.partial(
            jax.checkpoint, prevent_cse=False
        )  # the scan already keeps the two passes apart
        def step(stats: Tree, chunk: tuple) -> tuple[Tree, Any]:
            arrays, named = chunk
            out, stats = apply(params, stats, *arrays, **named, **static)
            return stats, out

        with jax.named_scope("forward"):
            stats, out = jax.lax.scan(step, stats, chunks)
        return jax.tree.map(_interleaved, out), stats

    return Net(init, apply, name, attention, draws)


def init_all(key: Array, **nets: Net) -> tuple[Tree, Tree]:
    """Return fresh (params, stats) with an entry per net, each from a key derived from its name."""
    made = {name: net.init(rng.named(key, name)) for name, net in nets.items()}
    return {k: v[0] for k, v in made.items()}, {k: v[1] for k, v in made.items()}


def output_shapes(net: Net, image_shape: tuple[int, int, int], **options: Any) -> Features:
    """Return the shapes of a backbone's outputs, without the batch axis, for images (H, W, C): its
    features with a `jax.ShapeDtypeStruct` in place of each array.

    Example: `output_shapes(net, (32, 32, 3)).pooled.shape` is `(512,)` for a ResNet-18.
    """

    def forward() -> Features:
        params, stats = net.init(jax.random.key(0))
        return net.apply(
            params, stats, jnp.zeros((1, *image_shape), jnp.float32), train=False, **options
        )[0]

    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), jax.eval_shape(forward)
    )


def _split(module: nnx.Module) -> tuple[nnx.GraphDef, dict, dict]:
    graphdef, *states = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    params, stats, rest = states
    kinds = {
        type(v).__name__
        for v in jax.tree.leaves(rest, is_leaf=lambda x: isinstance(x, nnx.Variable))
    }
    if kinds:
        raise TypeError(
            f"{type(module).__name__} holds {', '.join(sorted(kinds))}; use Param, BatchStat"
        )
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def _check_inputs(module: nnx.Module, names: Iterable[str], network: str) -> None:
    """Refuse inputs that a network lacks, such as the visible patches of a convolutional one."""
    taken = inspect.signature(type(module).__call__).parameters
    unknown = [name for name in names if name not in taken]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        raise UserError(f"{network}: this network takes no input {unknown[0]!r}")


def _string_keys(tree: Any) -> Any:
    """Convert the integer keys of `nnx.List` to strings, as regex rules and checkpoints need."""
    return {str(k): _string_keys(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def _own_keys(tree: Any, like: Any, path: str = "") -> Any:
    """Invert `_string_keys` for a network whose trees have the keys of `like`."""
    if not isinstance(like, dict):
        return tree
    names = set(tree) if isinstance(tree, dict) else set()
    if wrong := sorted(names ^ {str(k) for k in like}):
        state = "unknown" if wrong[0] in names else "missing"
        raise UserError(
            f"{state} variable {path + wrong[0]!r}: these variables are of another network"
        )
    return {k: _own_keys(tree[str(k)], v, f"{path}{k}/") for k, v in like.items()}


def _chunked(x: Array, k: int) -> Array:
    """Reshape (B, ...) to (k, B // k, ...), with the rows j::k in chunk j."""
    if k < 1 or x.shape[0] % k:
        raise UserError(
            f"microbatches={k} does not divide the batch of {x.shape[0]}; use one of its divisors"
        )
    return jnp.swapaxes(jnp.reshape(x, (x.shape[0] // k, k, *x.shape[1:])), 0, 1)


def _interleaved(x: Array) -> Array:
    """Invert `_chunked`."""
    return jnp.reshape(jnp.swapaxes(x, 0, 1), (-1, *x.shape[2:]))
