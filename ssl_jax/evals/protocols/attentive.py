"""The attentive probe: a learned query attends to the tokens of a frozen stage, then a linear
classifier follows.

The tokens are read once and kept in host memory as bfloat16, one stage at a time: 2 N T D bytes per
set. Running the encoder again in every epoch would take less memory and cost `epochs` times its
forward passes, which are nearly all of the work; accelerators compute the features with 8 bits of
mantissa anyway. Tokens that do not fit in memory are refused before they are read.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, SingleDeviceSharding

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import gather, place
from ssl_jax.core.ranges import BelowOne, Count, Integer, NonNegative, Positive, Seed
from ssl_jax.data.copies import apart
from ssl_jax.evals import features
from ssl_jax.evals.base import Labelled, Part, Protocol, Subject, group_by
from ssl_jax.evals.checks import NotMeasurable, check_varied
from ssl_jax.objectives.base import Encoder

Array = jax.Array
Tree = Any
CHUNK_BYTES = 2**26  # of tokens placed on the devices at once
POOLED = 2**28  # numbers that pooling has in memory at once
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Attentive(Protocol):
    """Accuracy of attention pooling and a linear classifier that saw all labels; see `fit`.

    Attributes:
      stage: stage whose patch tokens, or positions of its map, are read; by default the method's.
      lr, weight_decay: of AdamW; the rate falls to 0 along half a cosine. Several pairs are trained
        at once.
      epochs, batch_size: the default batch is at most the training set.
      heads: attention heads.
      holdout: share of the training examples that the probe is not trained on; choose settings by
        its accuracy on them, `attentive_holdout_top1`.
      seed: seed of the order of the examples and of the initial weights.
    """

    stage: Integer | None = None
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    epochs: Count = 20
    batch_size: Count = 256
    heads: Count = 8
    holdout: BelowOne = 0.0
    seed: Seed = 0

    needs: ClassVar[str] = "a network, and labels of training and evaluation images"

    def applies(self, subject: Subject) -> bool:
        return subject.labelled and subject.encoder is not None

    @classmethod
    def measure_all(
        cls, settings: Sequence[Self], subject: Subject
    ) -> Iterator[tuple[Self, dict[str, float]]]:
        """Train settings that differ in rate and decay only together."""
        for setting in settings:
            setting.check(subject)

        def stage(setting: Self) -> int:
            return subject.probe.stage if setting.stage is None else setting.stage

        for same_stage in group_by(settings, stage):
            train, test = read(subject, stage(same_stage[0]))
            for group in group_by(
                same_stage, lambda s: dataclasses.replace(s, stage=None, lr=1.0, weight_decay=0.0)
            ):
                yield from _measure_group(train, test, group, subject)


def _measure_group(
    train: Labelled, test: Labelled, group: Sequence[Attentive], subject: Subject
) -> Iterator[tuple[Any, dict[str, float]]]:
    first, mesh = group[0], subject.images.mesh
    is_held_out = np.zeros(len(train.labels), bool)
    if first.holdout:
        is_held_out = apart(*train, first.holdout, first.seed)
    held_out, rows = np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)
    if first.holdout and not len(held_out):
        raise UserError(
            f"attentive: holdout = {first.holdout} of {len(is_held_out)} examples holds out none; "
            "raise it"
        )
    batch = first.at_most("batch_size", len(rows), "training examples")
    size = max(1, POOLED // (batch * first.heads * train.features.shape[-1]))
    for i in range(0, len(group), size):
        settings = group[i : i + size]
        probes = fit(train, settings, subject.classes, np.sort(rows), mesh)
        scores = {"attentive_top1": accuracy(probes, test, np.arange(len(test.labels)), mesh)}
        if len(held_out):
            scores["attentive_holdout_top1"] = accuracy(probes, train, held_out, mesh)
        finite = [
            all(np.isfinite(p[s]).all() for p in probes.params.values())
            for s in range(len(settings))
        ]
        for s, setting in enumerate(settings):
            yield (
                setting,
                {name: float(v[s]) if finite[s] else np.nan for name, v in scores.items()},
            )


def read(subject: Subject, stage: int) -> tuple[Labelled, Labelled]:
    """Read the tokens (N, T, D) bfloat16 of a stage, of the training and of the test set.

    Raises:
      UserError: they would take more than half of this machine's memory, or there is no such stage.
    """
    images, encoder = subject.images, subject.encoder
    shape = (1, *images.view.sides, images.channels)
    token = jax.eval_shape(
        lambda e, x: _tokens(e, images.view, stage, x), encoder, jax.ShapeDtypeStruct(shape, "u1")
    )
    count = len(images.train.rows) + len(images.test.rows)
    need, room = 2 * count * token.size, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 2 * need > room:
        raise UserError(
            f"attentive: {token.shape[1]} tokens of {count} images take {need / 2**30:.1f} GiB, "
            f"more than half of the {room / 2**30:.1f} GiB here; lower evals.max_train, or choose "
            "a later stage"
        )

    def tokens_of(part: Part) -> Labelled:
        rows, index = features.collect(
            lambda batch, _: _read(encoder, images.view, stage, batch),
            images.batches(part),
            images.mesh,
        )
        (tokens,) = images.labelled_rows(part, [rows], index)
        check_varied(tokens.features, "tokens")
        return tokens

    return tokens_of(images.train), tokens_of(images.test)


def _tokens(encoder: Encoder, view: View, stage: int, images: Array) -> Array:
    """Return tokens (B, T, D) bfloat16 of uint8 images (B, H, W, C)."""
    x = features.stage_map(encoder.features(prepare(view, images)), stage)
    return x.reshape(len(x), -1, x.shape[-1]).astype(jnp.bfloat16)


# The encoder is an argument, not a closure: one compile for every step's weights.
_read = jax.jit(_tokens, static_argnums=(1, 2))


class Probes(NamedTuple):
    """S probes on tokens of width D with mean and deviation (D,).

    Attributes:
      params: "query" (S, H, D), "value" (S, H, D, E), "weight" (S, H E, C), "bias" (S, C).
    """

    params: Tree
    mean: np.ndarray
    deviation: np.ndarray


def fit(
    train: Labelled,
    settings: Sequence[Attentive],
    classes: int,
    rows: np.ndarray,
    mesh: Mesh | None = None,
) -> Probes:
    """Train a probe for each of `settings`, which differ in lr and weight_decay only, on the same
    batches of the examples `rows`; each is the same as if trained alone.

    Head h of the attention weighs the standardised tokens x_t by `softmax_t(query_h x_t)` and sums
    `value_h x_t`, E = ceil(D / H) numbers; a linear classifier reads those of all heads. A query
    and a projection of the keys act by their product only, which is the vector `query_h`. It starts
    near 0, where this is average pooling. The bias does not decay.

    Args:
      train: features (N, T, D).
      rows: examples to learn from.

    Raises:
      UserError: a single class.
    """
    if len(np.unique(train.labels[rows])) < 2:
        raise NotMeasurable("attentive probe: the training data have labels of one class only")
    first = settings[0]
    batch = first.at_most("batch_size", len(rows), "training examples")
    epoch = len(rows) // batch
    width, (mean, deviation) = train.features.shape[-1], moments(train.features, rows)
    params = _start(first, width, classes, len(settings))
    rates = np.array([s.lr for s in settings], np.float32)
    decays = np.array([s.weight_decay for s in settings], np.float32)
    alone = SingleDeviceSharding(jax.local_devices()[0])
    run = params, jax.device_get(optax.scale_by_adam().init(params))
    run = place(run, sharding.replicated(mesh) if mesh else alone)
    apart = sharding.batches_of(mesh, batch) if mesh else alone
    chunk = max(1, CHUNK_BYTES // (2 * batch * train.features[0].size))
    for number in range(first.epochs):
        order = np.random.default_rng([first.seed, number]).permutation(rows)[: epoch * batch]
        order = order.reshape(epoch, batch)
        for start in range(0, epoch, chunk):
            batch_rows = order[start : start + chunk]
            steps = np.arange(number * epoch + start, number * epoch + start + len(batch_rows))
            batches = place((train.features[batch_rows], train.labels[batch_rows]), apart)
            shares = (0.5 + 0.5 * np.cos(np.pi * steps / (epoch * first.epochs))).astype(np.float32)
            run = _train(run, *batches, shares, rates, decays, mean, deviation)
    return Probes(jax.device_get(run[0]), mean, deviation)


def moments(tokens: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (D,) float32 over the tokens (N, T, D) of `rows`."""
    total = square = np.zeros(tokens.shape[-1])
    size = max(1, CHUNK_BYTES // (8 * tokens[0].size))
    for start in range(0, len(rows), size):
        x = tokens[rows[start : start + size]].astype(np.float64)
        total, square = total + x.sum((0, 1)), square + np.square(x).sum((0, 1))
    count = len(rows) * tokens.shape[1]
    mean = total / count
    variance = np.maximum(square / count - np.square(mean), 0)
    return mean.astype(np.float32), np.sqrt(variance + EPS).astype(np.float32)


def accuracy(
    probes: Probes, data: Labelled, rows: np.ndarray, mesh: Mesh | None = None
) -> np.ndarray:
    """Return the share (S,) of the examples `rows` that each probe classifies correctly."""
    alone = SingleDeviceSharding(jax.local_devices()[0])
    apart, whole = (
        (sharding.batch_sharding(mesh), sharding.replicated(mesh)) if mesh else (alone, alone)
    )
    size = max(1, min(len(rows), CHUNK_BYTES // (4 * data.features[0].size)))
    size += -size % (mesh.size if mesh else 1)
    placed, correct = place(tuple(probes), whole), 0
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        padded = np.resize(part, size)  # repeated, for one shape
        predicted = gather(_predict(*placed, place(data.features[padded], apart)))[: len(part)]
        correct = correct + np.sum(predicted == data.labels[part][:, None], axis=0)
    return np.asarray(correct) / len(rows)


def _start(setting: Attentive, width: int, classes: int, count: int) -> Tree:
    """Return the same initial weights for each of `count` probes."""
    draw, value_width = np.random.default_rng(setting.seed), -(-width // setting.heads)
    first = {
        "query": 0.02 * draw.normal(size=(setting.heads, width)),
        "value": draw.normal(size=(setting.heads, width, value_width)) / width**0.5,
        "weight": 0.01 * draw.normal(size=(setting.heads * value_width, classes)),
        "bias": np.zeros(classes),
    }
    return {k: np.repeat(v[None], count, axis=0).astype(np.float32) for k, v in first.items()}


def _logits(params: Tree, tokens: Array) -> Array:
    """Return logits (B, S, C) of standardised tokens (B, T, D)."""
    scores = jnp.einsum("btd,shd->bsht", tokens, params["query"])
    pooled = jnp.einsum("bsht,btd->bshd", jax.nn.softmax(scores), tokens)
    values = jnp.einsum("bshd,shde->bshe", pooled, params["value"])
    values = values.reshape(*values.shape[:2], -1)
    return jnp.einsum("bsf,sfc->bsc", values, params["weight"]) + params["bias"]


@jax.jit
def _predict(params: Tree, mean: Array, deviation: Array, tokens: Array) -> Array:
    return _logits(params, (tokens.astype(jnp.float32) - mean) / deviation).argmax(-1)


@functools.partial(jax.jit, donate_argnums=0)
def _train(
    run: tuple[Tree, Tree],
    tokens: Array,
    labels: Array,
    shares: Array,
    rates: Array,
    decays: Array,
    mean: Array,
    deviation: Array,
) -> tuple[Tree, Tree]:
    """Take n steps of AdamW: batches (n, B, T, D), (n, B), shares (n,) of the peak rates (S,)."""

    def loss(params: Tree, x: Array, y: Array) -> Array:
        logits = _logits(params, x)
        labels = jnp.broadcast_to(y[:, None], logits.shape[:2])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(jnp.mean(losses, axis=0))  # a sum: the probes are independent

    def step(run: tuple[Tree, Tree], inputs: tuple[Array, Array, Array]) -> tuple[Any, None]:
        (params, state), (x, y, share) = run, inputs
        gradient = jax.grad(loss)(params, (x.astype(jnp.float32) - mean) / deviation, y)
        update, state = optax.scale_by_adam().update(gradient, state)
        updated = {}
        for name, p in params.items():
            per_probe = (-1, *[1] * (p.ndim - 1))
            decay = 0.0 if name == "bias" else decays.reshape(per_probe)
            updated[name] = p - share * rates.reshape(per_probe) * (update[name] + decay * p)
        return (updated, state), None

    return jax.lax.scan(step, run, (tokens, labels, shares))[0]
