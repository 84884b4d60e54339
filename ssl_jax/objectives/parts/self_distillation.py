"""Functions shared by DINO and its successors: teacher temperature, mean logits, frozen last layer,
encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Group, Heads, Spec

Array = jax.Array
Tree = Any

NO_WARMUP = {  # for `unused` (see `core.config.check_used`)
    "warmup_temperature": "the temperature is not warmed up; set warmup_epochs"
}


def teacher_temperature(
    step: Array, steps_per_epoch: int, start: float, end: float, warmup_epochs: int
) -> Array:
    """Return the teacher's temperature, a float scalar for the int scalar `step`.

    It rises linearly from `start` in the first to `end` in the last epoch of the warmup and is
    constant within an epoch, as released.
    """
    epoch = step // steps_per_epoch
    line = start + (end - start) * epoch / max(warmup_epochs - 1, 1)
    return jnp.where(epoch < warmup_epochs, line, end)


def mean_logits(logits: Array, valid: Array | None = None) -> Array:
    """Return the mean (K,) of a teacher's logits (..., K), those that are `valid` (...) bool: the
    batch's part of the running mean that centres its later logits.
    """
    axes = tuple(range(logits.ndim - 1))
    if valid is None:
        return jnp.mean(logits, axis=axes)
    total = jnp.sum(jnp.where(valid[..., None], logits, 0), axis=axes)
    return total / jnp.maximum(valid.sum(), 1)


def last_layer_group(spec: Spec, freeze_epochs: float) -> dict[str, Group]:
    """Return the group of the heads' last layers, frozen for the first epochs."""
    steps = round(freeze_epochs * spec.steps_per_epoch)
    return {"last_layer": Group("head/last_layer/", frozen_until=steps)}


def teacher_encoder(backbone: Net, head: Net, extra: Tree) -> Encoder:
    """Return the teacher, with the centred logits of its `head` as clusters.

    Args:
      extra: of the method, with "teacher", "teacher_stats" and, unless its logits are not centred,
        "center".
    """
    teacher, stats = extra["teacher"], extra["teacher_stats"]
    after = {"params": teacher["head"], "stats": stats["head"], "center": extra.get("center", 0.0)}
    clusters = Heads(after, CentredHead(head))
    return Encoder(teacher["backbone"], stats["backbone"], backbone, clusters=clusters)


@dataclass(frozen=True)
class CentredHead:
    """The scores of `teacher_encoder`; equal for equal networks, so that programs are reused."""

    head: Net

    def __call__(self, after: Tree, pooled: Array) -> Sequence[Array]:
        logits, _ = self.head.apply(after["params"], after["stats"], pooled, train=False)
        return [logits - after["center"]]
