"""Fixtures of three training steps by released codes: their tiny encoder, weights and optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Objective
from ssl_jax.optim.factory import OptimConfig, make_optimizer

IDENTITY = Net(lambda key: ({}, {}), lambda p, s, x, **_: (x, s), "identity")


def tiny(params: Any, relu: bool = False) -> Net:
    """The fixtures' encoder, which starts from `params`: convolution, ReLU, mean over space,
    linear, and a further ReLU if `relu`.
    """

    def apply(params, stats, images, **_):
        x = jax.lax.conv_general_dilated(
            images,
            params["conv"]["kernel"],
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = jnp.mean(jax.nn.relu(x + params["conv"]["bias"]), (1, 2))
        x = jnp.matmul(x, params["fc"]["kernel"], precision="highest") + params["fc"]["bias"]
        return Features(pooled=jax.nn.relu(x) if relu else x), stats

    start = jax.tree.map(lambda x: x.astype(np.float32), params)
    return Net(lambda key: (start, {}), apply, "tiny")


def weights(
    data: Mapping[str, np.ndarray], prefix: str, names: Mapping[str, tuple[str, str]], step=None
) -> dict[str, Any]:
    """Collect {network: {layer: {kind: array}}} in this project's layouts.

    Args:
      prefix: of the fixture's keys.
      names: the fixture's layer -> (network, layer); others are left out.
      step: index along the leading axis.
    """
    out: dict[str, Any] = {network: {} for network, _ in names.values()}
    for key, value in data.items():
        layer, _, kind = key.removeprefix(prefix).rpartition(".")
        if not key.startswith(prefix) or layer not in names:
            continue
        value = value if step is None else value[step]
        if value.ndim == 1:
            kind = "scale" if kind == "weight" else kind
        else:
            value, kind = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0)), "kernel"
        network, ours = names[layer]
        out[network].setdefault(ours, {})[kind] = jnp.asarray(value)
    return out


def hyper(data: Mapping[str, np.ndarray], name: str) -> float:
    """Return a hyper-parameter as the decimal number that float32 rounded: 0.07, as in the runs of
    the fixtures in float64.
    """
    return float(str(data[f"hp_{name}"]))


def images(data: Mapping[str, np.ndarray], step: int, first: str, second: str) -> jax.Array:
    """Return a step's views (B, 2, H, W, C)."""
    views = np.stack([data[first][step], data[second][step]], axis=1)
    return jnp.asarray(views.transpose(0, 1, 3, 4, 2))


def sgd(data: Mapping[str, np.ndarray], params: Any, batch: int) -> optax.GradientTransformation:
    """Make the project's SGD with the fixture's values."""
    config = OptimConfig(
        name="sgd",
        lr=hyper(data, "lr"),
        lr_scaling="none",
        schedule="constant",
        momentum=hyper(data, "sgd_momentum"),
        weight_decay=hyper(data, "weight_decay"),
        decay_rules=((".*", 1.0),),
    )
    options = {"batch_size": batch, "total_steps": 3, "steps_per_epoch": 1}
    return make_optimizer(config, params, {}, **options)[0]


def train_step(objective: Objective, tx: optax.GradientTransformationExtraArgs) -> Callable:
    """Return a jitted (params, extra, state, batch, step) -> (loss, params, extra, state)."""

    @jax.jit
    def update(params, extra, state, batch, step):
        loss = lambda p: objective.loss(p, extra, batch, jax.random.key(0), step)  # noqa: E731
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = tx.update(grads, state, params, step=step)
        params = optax.apply_updates(params, updates)
        params, after = objective.after_update(params, aux.extra, aux.signals, step)
        return value, params, after, state

    return update


def check(ours: Any, theirs: Any, rtol: float) -> None:
    """Compare two trees: each entry relative to itself, and to the largest of its array."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max())
