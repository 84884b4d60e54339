"""Learning-rate, weight-decay and momentum schedules: pure functions of the training state's step.

A traced or device `step` gives a JAX array; a Python or NumPy `step` (also an array of steps) gives
NumPy float64, so that a whole schedule can be seen without a device. `step` may be fractional.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


def cosine(step: Any, total: float, start: float, end: float = 0.0) -> Array:
    """Half a cosine from `start` at step 0 to `end` at step `total`, and `end` from there on.

    `end + (start - end) (1 + cos(pi step / total)) / 2`: DINO's weight decay (2104.14294), and with
    `end=1` the teacher momentum of BYOL (2006.07733, section 3.2), MoCo v3, DINO and PixPro.
    """
    xp, step = _as_float(step)
    # (1 + cos x) / 2 = cos^2(x / 2), which keeps its relative precision near the end in float32.
    fall = xp.square(xp.cos(0.5 * np.pi * xp.clip(step / max(total, 1), 0.0, 1.0)))
    return end + (start - end) * fall


def warmup_cosine(
    step: Any,
    total: float,
    base: float,
    end: float = 0.0,
    *,
    warmup: float = 0,
    start: float = 0.0,
    freeze: float = 0,
    inclusive: bool = False,
) -> Array:
    """Zero for `freeze` steps, a line from `start` to `base`, then a cosine from `base` to `end`.

    Args:
      step: the training step, from 0.
      total: steps of the whole run, freeze and warmup included; `end` is the value there.
      base: the peak, and the start of the cosine at step `freeze + warmup`.
      end: the value at step `total` and after it.
      warmup: steps of the line.
      start: the value at the first step of the line.
      freeze: steps at zero before the line (DINOv2's last layer).
      inclusive: the line reaches `base` at its own last step, one before the cosine starts, as in
        DINO, DINOv2 and SwAV. By default it would reach it where the cosine starts, as in SimCLR,
        BYOL, Barlow Twins, MoCo v3 and MAE.
    """
    xp, step = _as_float(step)
    step = step - freeze
    line = start + (base - start) * step / max(warmup - int(inclusive), 1)
    curve = cosine(step - warmup, total - warmup - freeze, base, end)
    return xp.where(step < 0, 0.0, xp.where(step < warmup, line, curve))


def step_decay(
    step: Any, base: float, milestones: Sequence[float], decay: float = 0.1, *, warmup: float = 0
) -> Array:
    """A line from 0 to `base` over `warmup` steps; `base` times `decay` for each milestone reached.

    `milestones` are steps; with none of them the schedule is constant after the warmup.
    """
    xp, step = _as_float(step)
    reached = sum((xp.where(step >= m, 1.0, 0.0) for m in milestones), start=xp.zeros_like(step))
    return xp.where(step < warmup, base * step / max(warmup, 1), base * decay**reached)


def linear_decay(
    step: Any,
    steps_per_epoch: float,
    epochs: float,
    base: float,
    constant: float = 0.0,
    *,
    warmup: float = 0,
) -> Array:
    """A line from 0 to `base` over `warmup` steps; `base` for `constant` epochs, then less each.

    Epoch e, from 0, has `base (1 - max(0, e + 1 - constant) / (epochs - constant + 1))`: the last
    of `epochs` is not yet 0 (CUT's models/networks.py, get_scheduler).
    """
    xp, step = _as_float(step)
    # The quotient of a step at an epoch's border may be rounded down to the epoch before.
    epoch = xp.floor((step + 0.5) / steps_per_epoch)
    fall = xp.maximum(epoch + 1 - constant, 0.0) / (max(epochs - constant, 0.0) + 1)
    return xp.where(step < warmup, base * step / max(warmup, 1), base * xp.maximum(1 - fall, 0.0))


def _as_float(step: Any) -> tuple[ModuleType, Any]:
    """The array module that `step` belongs to, and `step` in that module's default float type."""
    if isinstance(step, jax.Array):
        return jnp, step.astype(jnp.result_type(float))
    return np, np.asarray(step, np.float64)
