"""Pretext tasks of a clip's modalities: the versions of a clip that they ask about, and a function
per task (evolving losses, Piergiovanni et al. 2020, arXiv:2002.12177).

A modality's clip is (B, 2 n, ...): n frames that the network sees, the past, and the n after them.
The functions of tasks compute T tasks of one kind, along the second axis, over the whole batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.core import rng
from ssl_jax.losses.multi_modal import binary, feature_distance, margin_contrast
from ssl_jax.losses.normalize import as_float, l2_normalize

Array = jax.Array
Head = Callable[[Array], Array]


class Versions(NamedTuple):
    """Versions (B, n, ...) of a clip, and the answers (B,) to the questions about them: 1 or 0.

    Attributes:
      past, future: the first and the second half.
      played: the past, forwards (1) or backwards (0).
      mixed: the past, its frames in order (1) or in another one (0).
      paired: the past (1) or frames of another time or clip (0).
    """

    past: Array
    future: Array
    played: Array
    mixed: Array
    paired: Array
    forwards: Array
    ordered: Array
    aligned: Array


class Encoded(NamedTuple):
    """Features of the versions of one modality.

    Attributes:
      tokens: (B, N, D), of the past.
      past, played, mixed, paired: (B, D), the network's output for each.
      layers: (B, L, D), means over the places of the stages that are distilled.
    """

    tokens: Array
    past: Array
    played: Array
    mixed: Array
    paired: Array
    layers: Array


def versions_of(
    clip: Array, keys: Array, backwards: Callable[[Array], Array], other_clips: bool
) -> Versions:
    """Draw the versions of clips (B, 2 n, ...) by `keys` (B,), one per clip.

    Args:
      backwards: plays a clip (B, n, ...) backwards.
      other_clips: frames that are not aligned are the past of the batch's next clip, and not the
        future of the same clip.
    """
    count = clip.shape[1] // 2
    past, future = clip[:, :count], clip[:, count:]
    answers, orders = jax.vmap(lambda key: _draw(key, count))(keys)

    def either(answer: Array, yes: Array, no: Array) -> Array:
        return jnp.where(answer.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)

    mixed = jax.vmap(lambda frames, order: frames[order])(past, orders)
    wrong = jnp.roll(past, 1, axis=0) if other_clips else future
    return Versions(
        past,
        future,
        either(answers[:, 0], past, backwards(past)),
        either(answers[:, 1], past, mixed),
        either(answers[:, 2], past, wrong),
        *jnp.moveaxis(answers.astype(jnp.float32), 1, 0),
    )


def _draw(key: Array, count: int) -> tuple[Array, Array]:
    """Draw three answers (3,) and an order (count,) of the frames other than the right one."""
    order = jax.random.permutation(rng.named(key, "order"), count)
    right = jnp.all(order == jnp.arange(count))
    order = jnp.where(right, jnp.roll(order, 1), order)
    return jax.random.bernoulli(rng.named(key, "answers"), shape=(3,)), order


def pixels(decode: Head, tokens: Array, targets: Array) -> Array:
    """Mean squared errors (T,) of tubelets `targets` (B, T, N, P) that are decoded from tokens
    (B, T, N, D): of the past itself, of the future after it, or of the past in another modality.
    """
    return jnp.mean(jnp.square(as_float(decode(tokens)) - as_float(targets)), axis=(0, 2, 3))


def questions(classify: Head, features: Array, answers: Array) -> tuple[Array, Array]:
    """Answer T yes-no questions (B, T) from features (B, T, D); return the losses (T,) and the
    accuracies (T,).
    """
    logits = classify(features)[..., 0]
    right = (logits > 0) == (answers > 0.5)
    return jnp.mean(binary(logits, answers), axis=0), jnp.mean(right.astype(jnp.float32), axis=0)


def contrast(z: Array, others: Array, margin: float) -> Array:
    """Contrast of a modality's embeddings (B, T, d) with T others' on the unit sphere, (T,): those
    of a clip are near, and those of the batch's next clip are apart.
    """
    z, others = l2_normalize(z), l2_normalize(others)
    return jnp.mean(margin_contrast(z, others, jnp.roll(others, 1, axis=0), margin), axis=0)


def distillation(student: Array, teachers: Array) -> Array:
    """Squared distances (T,) of a student's features (B, T, L, D) of L layers to T teachers'
    (B, T, L, D), which get no gradient; means over the layers.
    """
    return jnp.mean(feature_distance(student, teachers), axis=(0, 2))
