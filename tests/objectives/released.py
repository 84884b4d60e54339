"""Three steps of a released code, as fixtures hold them, through the project's own train step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from ssl_jax.nets.backbone import Backbone
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Objective
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.training import step as train_steps
from ssl_jax.training.state import TrainState

IDENTITY = Net(lambda key: ({}, {}), lambda p, s, x, **_: (x, s), "identity")
ALL = ((".*", 1.0),)  # decay of all parameters


@dataclass(frozen=True)
class Tiny(Backbone):
    """The fixtures' encoder: convolution, ReLU, mean over space and, with `dim`, a linear layer,
    after which `relu` has a further ReLU.
    """

    filters: int = 4
    dim: int = 0
    relu: bool = False

    def module(self, channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return _Tiny(self, channels, rngs)

    def scaled(self, factor: float) -> "Tiny":
        return self


class _Tiny(nnx.Module):
    def __init__(self, config: Tiny, channels: int, rngs: nnx.Rngs):
        options = {"precision": "highest", "rngs": rngs}
        size = {"strides": 2, "padding": 1}
        self.conv = nnx.Conv(channels, config.filters, (3, 3), **size, **options)
        self.fc = nnx.Linear(config.filters, config.dim, **options) if config.dim else None
        self.relu = config.relu

    def __call__(self, images: Any, *, train: bool, stages: bool = False) -> Features:
        x = jax.nn.relu(self.conv(images))
        pooled = jnp.mean(x, (1, 2))
        pooled = pooled if self.fc is None else self.fc(pooled)
        return Features(pooled=jax.nn.relu(pooled) if self.relu else pooled, map=x)


def tiny(params: Any, relu: bool = False) -> Net:
    """Build the fixtures' encoder in the sizes of `params`."""
    _, _, channels, filters = params["conv"]["kernel"].shape
    return Tiny(filters, params["fc"]["bias"].size, relu).net(channels)


def weights(
    data: Mapping[str, np.ndarray],
    prefix: str,
    names: Mapping[str, str],
    step: int | None = None,
    dtype: Any = None,
) -> dict[str, Any]:
    """Collect the weights under `prefix` in this project's layouts.

    Args:
      names: the fixture's layer -> the path of ours; others are left out.
      step: index along the leading axis.
    """
    out: dict[str, Any] = {}
    for key, value in data.items():
        layer, _, kind = key.removeprefix(prefix).rpartition(".")
        if not key.startswith(prefix) or layer not in names:
            continue
        value = value if step is None else value[step]
        if value.ndim == 1:
            kind = "scale" if kind == "weight" else kind
        else:
            value, kind = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0)), "kernel"
        at = out
        for part in names[layer].split("/"):
            at = at.setdefault(part, {})
        at[kind] = jnp.asarray(value, dtype)
    return out


def hyper(data: Mapping[str, np.ndarray], name: str, place: tuple[int, ...] = ()) -> float:
    """Return a hyper-parameter as the decimal number that float32 rounded: 0.07, as in the runs of
    the fixtures in float64.
    """
    return float(str(data[f"hp_{name}"][place]))


def images(*views: np.ndarray) -> np.ndarray:
    """Return views (B, n, H, W, C), of one array each (B, C, H, W) or of one (B, n, C, H, W)."""
    every = views[0] if views[0].ndim == 5 else np.stack(views, axis=1)
    return np.moveaxis(every, 2, -1)


def sgd(
    data: Mapping[str, np.ndarray], params: Any, batch: int, decay_rules: Any = ALL
) -> optax.GradientTransformationExtraArgs:
    """Make the project's SGD with the fixture's values."""
    config = OptimConfig(
        name="sgd",
        lr=hyper(data, "lr"),
        lr_scaling="none",
        schedule="constant",
        momentum=hyper(data, "sgd_momentum"),
        weight_decay=hyper(data, "weight_decay"),
        decay_rules=decay_rules,
    )
    options = {"batch_size": batch, "total_steps": 3, "steps_per_epoch": 1}
    return make_optimizer(config, params, {}, **options)[0]


def train_step(objective: Objective, tx: optax.GradientTransformationExtraArgs) -> Callable:
    """Return the project's step as a jitted (params, extra, state, batch, step) -> (loss, params,
    extra, state). The batch is the one that the loss sees: it is not augmented.
    """
    kernel = train_steps.make_kernel(objective, tx, lambda step: jnp.float32(0))

    @jax.jit
    def update(params, extra, opt_state, batch, step):
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(
            step, zero.astype(jnp.uint32), zero, zero, zero - 1, params, extra, opt_state
        )
        with mock.patch.object(train_steps, "augment", lambda inputs, batch, key: batch):
            state, metrics = kernel(state, batch)
        return metrics["train/loss"], state.params, state.extra, state.opt_state

    return update


def train(
    objective: Objective,
    data: Mapping[str, np.ndarray],
    params: Any,
    extra: Any,
    batches: Sequence[Any],
    decay_rules: Any = ALL,
) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield what `train_step` returns after each step with the fixture's SGD."""
    tx = sgd(data, params, len(batches[0]["index"]), decay_rules)
    run, state = train_step(objective, tx), tx.init(params)
    for step, batch in enumerate(batches):
        batch = jax.tree.map(jnp.asarray, batch)
        loss, params, extra, state = run(params, extra, state, batch, jnp.int32(step))
        yield loss, params, extra, state


def check(ours: Any, theirs: Any, rtol: float) -> None:
    """Compare two trees, every array within `rtol` of its largest value."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    paths = jax.tree_util.tree_leaves_with_path(theirs)
    for (path, expected), leaf in zip(paths, jax.tree.leaves(ours), strict=True):
        largest, name = np.abs(expected).max(), jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=rtol * largest, err_msg=name)
