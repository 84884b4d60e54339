"""Online probe: a linear classifier trained alongside any method, without influence on it."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs
from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import (
    Aux,
    DataPass,
    Encoder,
    Group,
    Heads,
    Objective,
    Picture,
    Probe,
    Turn,
)
from ssl_jax.objectives.parts.networks import Networks

Array = jax.Array
Tree = Any
NAME = "online_probe"  # of its entry in `extra`
MOMENTUM, EPS = 0.9, 1e-6  # of the running statistics of features


@dataclass(frozen=True)
class OnlineProbe(Objective):
    """A method with a classifier on its encoder's features of the first view.

    The classifier lives in `extra` and takes its own steps of Adam, so neither the optimizer, nor
    the gradient norm, nor the finite check sees it: the method's training is bit for bit the same
    as without the probe. It costs one more forward pass of the encoder, in evaluation mode.

    Attributes:
      method: wrapped method; all calls to the objective are forwarded to it.
      lr: learning rate.
    """

    method: Objective = field(kw_only=True)
    lr: float = field(kw_only=True)

    @classmethod
    def around(cls, method: Objective, lr: float) -> Self:
        """Wrap a method.

        Raises:
          UserError: a learning rate that is not positive.
        """
        if not lr > 0:
            raise UserError(f"train.online_probe: expected None or a learning rate > 0, got {lr}")
        spec, chunks = method.spec, method.microbatches
        return cls(method.backbone, spec, microbatches=chunks, method=method, lr=lr)

    @property
    def probe(self) -> Probe:  # type: ignore[override]
        return self.method.probe

    @property
    def family(self) -> str:  # type: ignore[override]
        return self.method.family

    @property
    def probe_every_stage(self) -> bool:
        return self.method.probe_every_stage

    @property
    def least_batch(self) -> int:  # type: ignore[override]
        return self.method.least_batch

    @property
    def decays(self) -> str:  # type: ignore[override]
        return self.method.decays

    @property
    def refresh_groups(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.method.refresh_groups

    def with_backbone(self, backbone: Net) -> Self:
        return replace(self, backbone=backbone, method=self.method.with_backbone(backbone))

    def inputs(self) -> Inputs:
        return replace(self.method.inputs(), label=True)

    def init(self, key: Array) -> tuple[Tree, Tree]:
        params, extra = self.method.init(key)
        shape = (1, *self.inputs().views[0].sides, self.spec.channels)
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        encoder = self.method.encoder(params, extra)
        feature_fn = functools.partial(self._features, encoder.net)
        width = jax.eval_shape(feature_fn, encoder.params, encoder.stats, images).shape[1]
        return params, extra | {NAME: fresh(width, self.spec.num_classes)}

    def turns(self) -> Sequence[Turn]:
        """Return the turns of the method; the probe learns in the first."""
        first, *others = self.method.turns()
        return (
            first._replace(loss=functools.partial(self._probed, first.loss)),
            *(turn._replace(loss=functools.partial(self._alone, turn.loss)) for turn in others),
        )

    def loss(
        self, params: Tree, extra: Tree, batch: Mapping[str, Any], key: Array, step: Array
    ) -> tuple[Array, Aux]:
        return self._probed(self.method.loss, params, extra, batch, key, step)

    def _alone(self, loss: Callable[..., Any], params: Tree, extra: Tree, *args: Any) -> Any:
        value, aux = loss(params, _own(extra), *args)
        return value, aux._replace(extra={**aux.extra, NAME: extra[NAME]})

    def _probed(
        self,
        loss_fn: Callable[..., tuple[Array, Aux]],
        params: Tree,
        extra: Tree,
        batch: Mapping[str, Any],
        key: Array,
        step: Array,
    ) -> tuple[Array, Aux]:
        loss, aux = loss_fn(params, _own(extra), batch, key, step)
        # Nothing of the method may be fused or shared with the probe: its rounding would change.
        encoder, images = self.method.encoder(params, _own(extra)), batch["views"][0][:, 0]
        inputs = jax.lax.optimization_barrier((encoder.params, encoder.stats, images))
        with jax.named_scope(NAME):
            x = self._features(encoder.net, *jax.lax.stop_gradient(inputs))
            weights, metrics = learn(extra[NAME], x, batch["label"], step, self.lr)
        return loss, Aux({**aux.extra, NAME: weights}, aux.signals, {**aux.metrics, **metrics})

    def after_update(
        self, params: Tree, extra: Tree, signals: Tree, step: Array
    ) -> tuple[Tree, Tree]:
        params, updated = self.method.after_update(params, _own(extra), signals, step)
        return params, updated | {NAME: extra[NAME]}

    def encoder(self, params: Tree, extra: Tree) -> Encoder:
        return replace(self.method.encoder(params, _own(extra)), online=Heads(extra[NAME], logits))

    def teacher(self, params: Tree, extra: Tree) -> tuple[Tree, Tree] | None:
        return self.method.teacher(params, _own(extra))

    @property
    def fixed_networks(self) -> Networks | None:
        return self.method.fixed_networks

    def groups(self) -> dict[str, Group]:
        return self.method.groups()

    def pictures(
        self, params: Tree, extra: Tree, images: Array, key: Array
    ) -> Mapping[str, Picture]:
        return self.method.pictures(params, _own(extra), images, key)

    def stream_pictures(
        self, params: Tree, extra: Tree, streams: Mapping[str, Array], key: Array
    ) -> Mapping[str, Picture]:
        return self.method.stream_pictures(params, _own(extra), streams, key)

    def refresh_steps(self) -> Collection[int]:
        return self.method.refresh_steps()

    def pass_steps(self) -> Collection[int]:
        return self.method.pass_steps()

    def record(self, params: Tree, extra: Tree, images: Array) -> Array:
        return self.method.record(params, _own(extra), images)

    def refresh(
        self, params: Tree, extra: Tree, features: DataPass | None, key: Array, step: Array
    ) -> tuple[Tree, Tree]:
        params, updated = self.method.refresh(params, _own(extra), features, key, step)
        return params, updated | {NAME: extra[NAME]}

    def _features(self, net: Net, params: Tree, stats: Tree, images: Array) -> Array:
        """Return (B, D), read at the method's probe, in its microbatches."""
        chunks = self.microbatches if len(images) > 1 else 1
        outputs, _ = net.apply(params, stats, images, train=False, stages=True, microbatches=chunks)
        return self.probe.read(outputs)


def fresh(width: int, classes: int) -> Tree:
    """Create an untrained classifier of features (B, width), whose logits are 0."""
    zeros = {"kernel": jnp.zeros((width, classes)), "bias": jnp.zeros(classes)}
    moments = {name: jax.tree.map(jnp.zeros_like, zeros) for name in ("mu", "nu")}
    return zeros | moments | {"mean": jnp.zeros(width), "var": jnp.ones(width)}


def learn(
    weights: Tree, features: Array, labels: Array, step: Array, lr: float
) -> tuple[Tree, dict[str, Array]]:
    """Take one step of Adam; return the classifier, and `online_loss` and `online_top1` before it.

    Features are scaled to mean 0 and deviation 1 over the batch, as in MAE's linear probe
    (2111.06377, appendix A.1), so that one learning rate works for all networks.

    Args:
      weights: see `fresh`.
      features: (B, D).
      labels: (B,) int; rows with a negative label are ignored.
      step: number of earlier steps.
    """
    mean, var = jnp.mean(features, 0), jnp.var(features, 0)
    scaled = (features - mean) * jax.lax.rsqrt(var + EPS)
    has_label = labels >= 0
    count = jnp.maximum(jnp.sum(has_label), 1)

    def loss_fn(linear: Tree) -> tuple[Array, Array]:
        out = scaled @ linear["kernel"] + linear["bias"]
        losses = cross_entropy(out, jnp.maximum(labels, 0))
        return jnp.sum(jnp.where(has_label, losses, 0)) / count, out

    linear = {name: weights[name] for name in ("kernel", "bias")}
    (loss, out), grads = jax.value_and_grad(loss_fn, has_aux=True)(linear)
    state = optax.ScaleByAdamState(step, weights["mu"], weights["nu"])
    change, adam = optax.scale_by_adam().update(grads, state)
    updated = jax.tree.map(lambda w, u: w - lr * u, linear, change)
    running = {"mean": mean, "var": var}
    updated |= {k: MOMENTUM * weights[k] + (1 - MOMENTUM) * x for k, x in running.items()}
    hits = jnp.sum(has_label & (jnp.argmax(out, -1) == labels))
    metrics = {"online_loss": loss, "online_top1": hits / count}
    return updated | {"mu": adam.mu, "nu": adam.nu}, metrics


def logits(weights: Tree, features: Array) -> list[Array]:
    """Return the logits (B, classes) of the one classifier for features (B, D), which are scaled by
    their running statistics.
    """
    scaled = (features - weights["mean"]) * jax.lax.rsqrt(weights["var"] + EPS)
    return [scaled @ weights["kernel"] + weights["bias"]]


def _own(extra: Tree) -> Tree:
    """Return the wrapped method's part of `extra`."""
    return {name: value for name, value in extra.items() if name != NAME}
