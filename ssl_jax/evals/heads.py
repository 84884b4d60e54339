"""Training of several classifiers of frozen features at once, on the same batches: all of their
logits are one product. The optimizers and schedules are those of training (`ssl_jax.optim`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, SingleDeviceSharding

from ssl_jax.core import sharding
from ssl_jax.core.placement import place
from ssl_jax.evals.images import Labelled
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.optim.factory import OptimConfig, make_schedule, update_rule

Array = jax.Array
Tree = dict[str, Any]
Logits = Callable[[Tree, Tree, Array], tuple[Array, Tree]]
CHUNK_BYTES = 2**26  # of features placed on the devices at once


def fit(
    logits: Logits,
    params: Tree,
    extra: Tree,
    train: Labelled,
    rows: np.ndarray,
    optim: OptimConfig,
    rates: np.ndarray,
    decays: np.ndarray,
    *,
    batch_size: int,
    epochs: int,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> tuple[Tree, Tree]:
    """Train S heads, one per pair of learning rate and weight decay; return `params` and `extra`.

    Each head is the same as if trained alone. An epoch is as many whole batches as there are, in a
    new order. On a mesh whose devices divide the batch each sees its rows of it, else all of it.

    Args:
      logits: function of params, extra and inputs (B, ...); returns (B, S, C) and the new extra.
      params: name -> array whose first axis is the heads'. The "bias" neither decays nor has its
        updates scaled to its norm (LARS).
      extra: what is not trained, such as running statistics.
      rows: examples of `train` to learn from, at least a batch.
      optim: optimizer and schedule; its lr and weight_decay do not count.
      rates, decays: (S,).
      seed: seed of the order of the examples.
    """
    epoch = len(rows) // batch_size
    schedule = make_schedule(dataclasses.replace(optim, lr=1.0), batch_size, epochs * epoch, epoch)
    device = SingleDeviceSharding(jax.local_devices()[0])
    run = params, jax.device_get(_rule(optim, params).init(params)), extra
    run = place(run, sharding.replicated(mesh) if mesh else device)
    apart = sharding.batches_of(mesh, batch_size) if mesh else device
    chunk = max(1, CHUNK_BYTES // (batch_size * train.features[0].nbytes))
    for number in range(epochs):
        order = np.random.default_rng([seed, number]).permutation(rows)[: epoch * batch_size]
        order = order.reshape(epoch, batch_size)
        for start in range(0, epoch, chunk):
            chosen = order[start : start + chunk]
            steps = np.arange(number * epoch + start, number * epoch + start + len(chosen))
            shares = np.broadcast_to(schedule(steps), steps.shape).astype(np.float32)
            batches = place((train.features[chosen], train.labels[chosen]), apart)
            run = _train(logits, optim, run, *batches, shares, rates, decays)
    params, _, extra = jax.device_get(run)
    return params, extra


def _rule(optim: OptimConfig, params: Tree) -> optax.GradientTransformationExtraArgs:
    adapt = {name: name != "bias" for name in params}
    return update_rule(optim, adapt, dict.fromkeys(params, True))  # a head is a layer of a stack


def _losses(logits: Array, labels: Array) -> Array:
    """Return the losses (B, S) of logits (B, S, C): cross-entropy with labels (B,), or with tables
    of labels (B, C) the sum over the classes of the binary cross-entropy, 0 for labels of -1.
    """
    if labels.ndim == 1:
        return cross_entropy(logits, jnp.broadcast_to(labels[:, None], logits.shape[:2]))
    y = labels[:, None]
    return jnp.sum(jnp.where(y < 0, 0, jax.nn.softplus(logits) - y * logits), axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _train(
    logits: Logits,
    optim: OptimConfig,
    run: tuple[Tree, Any, Tree],
    features: Array,
    labels: Array,
    shares: Array,
    rates: Array,
    decays: Array,
) -> tuple[Tree, Any, Tree]:
    """Take n steps: batches (n, B, ...) and (n, B) or (n, B, C), shares (n,) of the rates (S,)."""

    def loss(params: Tree, extra: Tree, x: Array, y: Array) -> tuple[Array, Tree]:
        out, extra = logits(params, extra, x)
        losses = _losses(out, y)
        return jnp.sum(jnp.mean(losses, axis=0)), extra  # a sum: the heads are independent

    def step(run: tuple[Tree, Any, Tree], inputs: tuple[Array, Array, Array]) -> tuple[Any, None]:
        (params, state, extra), (x, y, share) = run, inputs
        gradient, extra = jax.grad(loss, has_aux=True)(params, extra, x, y)
        per_head = {name: (-1, *[1] * (p.ndim - 1)) for name, p in params.items()}
        lr = {name: (share * rates).reshape(shape) for name, shape in per_head.items()}
        decay = {
            name: (0 * decays if name == "bias" else decays).reshape(shape)
            for name, shape in per_head.items()
        }
        update, state = _rule(optim, params).update(
            gradient, state, params, lr=lr, weight_decay=decay
        )
        return (optax.apply_updates(params, update), state, extra), None

    return jax.lax.scan(step, run, (features, labels, shares))[0]
