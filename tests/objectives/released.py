"""Three steps of a released code, as fixtures hold them, through the project's own train step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ssl_jax.nets.backbone import Backbone
from ssl_jax.nets.features import Features
from ssl_jax.objectives.base import Objective
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from ssl_jax.train import step as train_step
from ssl_jax.train.state import TrainState


@dataclass(frozen=True)
class Tiny(Backbone):
    """The fixtures' encoder: convolution, ReLU, mean over space and, with `dim`, a linear layer."""

    filters: int = 4
    dim: int = 0

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

    def __call__(self, images: Any, *, train: bool, stages: bool = False) -> Features:
        x = jax.nn.relu(self.conv(images))
        pooled = jnp.mean(x, (1, 2))
        return Features(pooled=pooled if self.fc is None else self.fc(pooled), map=x)


def tree(
    data: Mapping[str, np.ndarray], prefix: str, names: Mapping[str, str], dtype: Any
) -> dict[str, Any]:
    """The weights under `prefix`, in this project's layouts; `names` maps a fixture's layer to the
    path of ours.
    """
    out: dict[str, Any] = {}
    for theirs, ours in names.items():
        at = out
        for part in ours.split("/"):
            at = at.setdefault(part, {})
        kernel = np.asarray(data[f"{prefix}{theirs}.weight"], dtype)
        at["kernel"] = kernel.transpose((2, 3, 1, 0) if kernel.ndim == 4 else (1, 0))
        at["bias"] = np.asarray(data[f"{prefix}{theirs}.bias"], dtype)
    return jax.tree.map(jnp.asarray, out)


def number(data: Mapping[str, np.ndarray], name: str) -> float:
    """A hyper-parameter: the decimal number that its float32 stands for."""
    return float(f"{float(data[name]):.6g}")


def at_step(data: Mapping[str, np.ndarray], prefix: str, step: int) -> dict[str, np.ndarray]:
    """The arrays under `prefix` after a step."""
    return {k: v[step] for k, v in data.items() if k.startswith(prefix)}


def images(x: np.ndarray) -> np.ndarray:
    """(B, n, C, H, W) or (B, C, H, W) to views (B, n, H, W, C)."""
    return np.moveaxis(x if x.ndim == 5 else x[:, None], 2, -1)


def train(
    objective: Objective,
    data: Mapping[str, np.ndarray],
    params: Any,
    extra: Any,
    batches: Sequence[Any],
    decay_rules: Any = ((".*", 1.0),),
) -> Iterator[tuple[TrainState, dict[str, Any]]]:
    """Yield state and metrics after each step with the fixture's SGD. The batches are those that
    the loss sees: they are not augmented.
    """
    config = OptimConfig(
        name="sgd",
        lr=number(data, "hp_lr"),
        lr_scaling="none",
        schedule="constant",
        momentum=number(data, "hp_sgd_momentum"),
        weight_decay=number(data, "hp_weight_decay"),
        decay_rules=decay_rules,
    )
    size = {"batch_size": len(batches[0]["index"]), "total_steps": 3, "steps_per_epoch": 1}
    tx, schedule = make_optimizer(config, params, objective.groups(), **size)
    zero = jnp.zeros((), jnp.int32)
    seed = jnp.zeros((), jnp.uint32)
    state = TrainState(zero, seed, zero, zero, zero - 1, params, extra, tx.init(params))
    with mock.patch.object(train_step, "augment", lambda inputs, batch, key: batch):
        kernel = jax.jit(train_step.make_kernel(objective, tx, schedule))
        for batch in batches:
            state, metrics = kernel(state, jax.tree.map(jnp.asarray, batch))
            yield state, metrics


def check_tree(ours: Any, theirs: Any, rtol: float) -> None:
    """Compare every leaf within `rtol` of its largest value."""
    paths = jax.tree_util.tree_leaves_with_path(theirs)
    for (path, expected), leaf in zip(paths, jax.tree.leaves(ours), strict=True):
        expected = np.asarray(expected)
        name = jax.tree_util.keystr(path)
        largest = np.abs(expected).max()
        np.testing.assert_allclose(leaf, expected, rtol=0, atol=rtol * largest, err_msg=name)
