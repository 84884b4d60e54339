"""The attentive probe: a learned query attends to the tokens of a frozen stage, then a linear
classifier follows.

The tokens are read once and kept in host memory as bfloat16, one stage at a time: 2 N T D bytes per
set. Running the encoder again in every epoch would take less memory and cost `epochs` times its
forward passes, which are nearly all of the work; accelerators compute the features with 8 bits of
mantissa anyway. Tokens that do not fit in memory are refused before they are read.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import gather, place
from ssl_jax.core.ranges import BelowOne, Count, Integer, NonNegative, Positive, Seed
from ssl_jax.data.copies import apart
from ssl_jax.evals import heads
from ssl_jax.evals.base import Batch, Protocol, Subject, group_by
from ssl_jax.evals.checks import check_several, check_varied
from ssl_jax.evals.images import Labelled, Part
from ssl_jax.losses.shapes import check_shapes
from ssl_jax.objectives.base import Encoder
from ssl_jax.optim.factory import OptimConfig

Array = jax.Array
Tree = Any
POOLED = 2**28  # numbers that pooling has in memory at once
EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Attentive(Protocol):
    """Accuracy of attention pooling and a linear classifier that saw all labels; see `fit`.

    Attributes:
      stage: stage whose patch tokens, or positions of its map, are read; by default the method's.
      lr, weight_decay: settings of AdamW; the rate falls to 0 along half a cosine. Several pairs
        are trained at once.
      epochs, batch_size: the default batch is at most the training set.
      heads: attention heads.
      holdout: share of the training examples that the probe is not trained on; choose settings by
        its accuracy on them, `attentive_holdout_top1`.
      seed: seed of the order of the examples and of the initial weights.
    """

    titles: ClassVar[Mapping[str, str]] = {
        "attentive_top1": "attentive probe",
        "attentive_holdout_top1": "attentive probe, held-out training images",
    }
    scores: ClassVar[tuple[str, ...]] = ("attentive",)
    decides: ClassVar[tuple[str, ...]] = ("attentive_top1",)

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
        lambda e, x: _tokens(e, Batch(images.view, x, x), stage),
        encoder,
        jax.ShapeDtypeStruct(shape, "u1"),
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
        rows, index = subject.map(_tokens, part, stage)
        (tokens,) = images.labelled_rows(part, [rows], index)
        check_varied(tokens.features, "tokens")
        return tokens

    return tokens_of(images.train), tokens_of(images.test)


def _tokens(encoder: Encoder, batch: Batch, stage: int) -> Array:
    """Return the tokens (B, T, D) bfloat16 of a stage."""
    x = encoder.features(batch.images).stage(stage).whole_map
    return x.reshape(len(x), -1, x.shape[-1]).astype(jnp.bfloat16)


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
    check_several(train.labels[rows], "attentive probe")
    first = settings[0]
    width, (mean, deviation) = train.features.shape[-1], moments(train.features, rows)
    params, _ = heads.fit(
        _training_logits,
        _start(first, width, classes, len(settings)),
        {"mean": mean, "deviation": deviation},
        train,
        rows,
        OptimConfig(name="adamw", lr_scaling="none"),
        np.array([s.lr for s in settings], np.float32),
        np.array([s.weight_decay for s in settings], np.float32),
        batch_size=first.at_most("batch_size", len(rows), "training examples"),
        epochs=first.epochs,
        seed=first.seed,
        mesh=mesh,
    )
    return Probes(params, mean, deviation)


def moments(tokens: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (D,) float32 over the tokens (N, T, D) of `rows`."""
    check_shapes("moments: tokens (N, T, D), rows (n) int", tokens, rows)
    total = square = np.zeros(tokens.shape[-1])
    size = max(1, heads.CHUNK_BYTES // (8 * tokens[0].size))
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
    size = max(1, min(len(rows), heads.CHUNK_BYTES // (4 * data.features[0].size)))
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
    return _logits(params, _standardised(tokens, mean, deviation)).argmax(-1)


def _training_logits(params: Tree, moments: Tree, tokens: Array) -> tuple[Array, Tree]:
    return _logits(params, _standardised(tokens, moments["mean"], moments["deviation"])), moments


def _standardised(tokens: Array, mean: Array, deviation: Array) -> Array:
    return (tokens.astype(jnp.float32) - mean) / deviation
