"""Training of a dense head on the maps of a frozen network, image by image."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssl_jax.core import distributed, sharding
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import place, to_global
from ssl_jax.evals import features
from ssl_jax.evals.base import Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.dense_heads import DPTHead, Head
from ssl_jax.objectives.base import Encoder

Array = jax.Array
Sample = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
AnyHead = Head | DPTHead
Loss = Callable[[Array, Array, Array], Array]


class Layer(NamedTuple):
    """Place where maps are read: a view for normalisation, stages, the patch of raw pixels, and
    whether the class token of a stage is joined to each position of its map.
    """

    view: View
    stages: tuple[int, ...]
    patch: int
    class_token: bool = False

    def maps(self, encoder: Encoder | None, images: Array) -> list[Array]:
        """Return the map (B, h, w, D) of each stage for uint8 images (B, H, W, C)."""
        where = self.view, self.stages, self.patch
        return features.stage_maps(encoder, *where, images, self.class_token)

    def shapes(self, subject: Subject, size: int) -> list[tuple[int, ...]]:
        """Return the shapes (h, w, D) of the maps of images of `size`."""
        example = jnp.zeros((1, size, size, subject.images.channels), jnp.uint8)
        maps = jax.eval_shape(lambda net: self.maps(net, example), subject.encoder)
        return [x.shape[1:] for x in maps]

    def widths(self, subject: Subject, size: int) -> tuple[int, ...]:
        """Return the channels of the maps of images of `size`."""
        return tuple(shape[-1] for shape in self.shapes(subject, size))


class HeadTraining(NamedTuple):
    """AdamW with a linear warmup over `warmup` of the steps, then to 0 on a line or a cosine.

    Attributes:
      clip: largest norm of the gradient; 0 is none.
      from_zero: the rate of the first step is 0; else it is the first of the warmup's.
    """

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    seed: int
    warmup: float
    decay: Literal["linear", "cosine"]
    b2: float = 0.999
    clip: float = 0.0
    from_zero: bool = False

    def optimizer(self) -> optax.GradientTransformation:
        steps, warmup = self.steps, round(self.warmup * self.steps)
        if self.from_zero:
            steps, first = max(steps, 2), 0.0
        else:
            warmup = min(warmup + 1, steps)
            first = self.lr / warmup
        rest = max(steps - warmup, 1)
        after = (
            optax.linear_schedule(self.lr, 0.0, rest)
            if self.decay == "linear"
            else optax.cosine_decay_schedule(self.lr, rest)
        )
        before = optax.linear_schedule(first, self.lr, warmup)
        rate = optax.join_schedules([before, after], [warmup])
        rule = optax.adamw(rate, b2=self.b2, weight_decay=self.weight_decay)
        return optax.chain(optax.clip_by_global_norm(self.clip), rule) if self.clip else rule


def fit(
    subject: Subject,
    head: AnyHead,
    layer: Layer,
    sample: Sample,
    loss: Loss,
    training: HeadTraining,
) -> tuple[Any, Any]:
    """Train a head; return its parameters and running statistics, on the host.

    Args:
      sample: function of a generator, which is that of a step and a place in the batch, and of the
        number of images drawn before; returns an image (size, size, channels) uint8 and its
        targets. Several threads call it.
      loss: function of a module, or a hashable one, of logits (B, h, w, C), targets (B, ...) and
        which images are no padding (B,); returns a scalar.

    Raises:
      NotMeasurable: the head diverged.
    """
    mesh = subject.images.mesh
    params, stats = head.init(training.seed)
    state = jax.device_get(training.optimizer().init(params))
    run = place((params, stats, state), sharding.replicated(mesh))
    batch = training.batch_size + -training.batch_size % mesh.size
    mine, placed = sharding.local_rows(mesh, batch), sharding.batch_sharding(mesh)
    # A place beyond the batch is padding: it repeats another and does not count.
    rows = [int(spot) % training.batch_size for spot in mine]
    with ThreadPoolExecutor() as pool:  # decodes the images of the next step during this one

        def begin(step: int) -> list[Future[tuple[np.ndarray, np.ndarray]]]:
            if step == training.steps:
                return []
            draws = [np.random.default_rng([training.seed, step, row]) for row in rows]
            numbers = [step * training.batch_size + row for row in rows]
            return list(map(pool.submit, [sample] * len(rows), draws, numbers))

        coming = begin(0)
        for step in range(training.steps):
            distributed.tick()
            samples = [future.result() for future in coming]
            coming = begin(step + 1)
            inputs = to_global(tuple(map(np.stack, zip(*samples, strict=True))), placed)
            run = _step(run, subject.encoder, inputs, head, layer, loss, training)
    params, stats, _ = jax.device_get(run)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves((params, stats))):
        raise NotMeasurable("the head diverged; lower lr")
    return params, stats


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6), donate_argnums=0)
def _step(
    run: Any,
    encoder: Encoder | None,
    inputs: tuple[Array, Array],
    head: AnyHead,
    layer: Layer,
    loss: Loss,
    training: HeadTraining,
) -> Any:
    params, stats, state = run
    images, targets = inputs
    maps = layer.maps(encoder, images)
    real = jnp.arange(len(images)) < training.batch_size

    def objective(params: Any) -> tuple[Array, Any]:
        logits, fresh = head.apply(params, stats, maps, real)
        return loss(logits, targets, real), fresh

    grads, fresh = jax.grad(objective, has_aux=True)(params)
    updates, state = training.optimizer().update(grads, state, params)
    return optax.apply_updates(params, updates), fresh, state


@functools.partial(jax.jit, static_argnums=(3, 4))
def logits_of(
    weights: Any, encoder: Encoder | None, images: Array, head: AnyHead, layer: Layer
) -> Array:
    """Return the logits (B, h, w, C) of uint8 images, by the head's running statistics."""
    params, stats = weights
    return head.apply(params, stats, layer.maps(encoder, images), None)[0]
