"""Gram anchoring (DINOv3, 2508.10104, section 4.2): the similarities of the student's patches stay
those of an earlier teacher, the Gram teacher, which is renewed from time to time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.losses.gram import gram
from ssl_jax.objectives.parts.multicrop import images_and_patches

Array = jax.Array
Tree = Any


def gram_loss(
    backbone: Callable[..., Any], large: Sequence[Array], patches: Array, started: Array
) -> Array:
    """Compare the similarities of the student's patches with those of the Gram teacher.

    Args:
      backbone: the Gram teacher's, `Bound.backbone`.
      large: groups of large crops, which it sees whole.
      patches: the student's (B, G, N, D) of these crops.
      started: bool scalar; before, the Gram teacher does not run and the loss is 0.

    Returns:
      A scalar, float32 or wider.
    """

    def compare() -> Array:
        return gram(patches, images_and_patches(backbone, large)[1])

    zero = jnp.zeros((), jax.eval_shape(compare).dtype)
    return jax.lax.cond(started, compare, lambda: zero)


def renewed(
    gram_teacher: Tree, teacher: Tree, done: Array, first: int, start: int, every: int
) -> Tree:
    """Return the networks of the Gram teacher after `done` steps: those of the current teacher
    after `first` steps, and after every `every` steps from `start` on; else those before.
    """
    due = (done == first) | ((done > start) & ((done - start) % every == 0))
    latest = {name: teacher[name] for name in gram_teacher}
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), latest, gram_teacher)
