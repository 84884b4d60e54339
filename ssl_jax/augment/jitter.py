"""Colour jitter of planes, (C, H, W) float32 in [0, 1]: four adjustments in random order.

There are two forms with the same result, see `recipes`. The serial form applies one adjustment
after the other by real branches. Under `vmap` every branch would be computed, so the batched form
is a fixed program that covers all 24 orders,

    bc S bc H bc S bc    (bc: brightness and contrast in either order; S saturation, H hue)

in which the steps that an order does not use are identities. Only contrast needs the whole image:
the mean just before it. So the program first runs up to the contrast to get the mean, and then runs
again with it. All of the work is then per pixel and XLA can fuse it, which on a TPU halves the
memory traffic.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import photometric
from ssl_jax.augment.photometric import Line, adjust
from ssl_jax.core.chain import Kind

Array = jax.Array
Planes = Sequence[Array]

DRAWS = 6
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class _Amounts(NamedTuple):
    brightness: Line
    contrast: Array
    saturation: Array
    hue: Array
    native: bool  # use torchvision's contrast and saturation


def color_jitter(
    image: Array,
    draws: Array,
    strength: tuple[float, float, float, float],
    kind: Kind = "torchvision",
    serial: bool = False,
) -> Array:
    """Change brightness, contrast, saturation and hue by random amounts in random order, clipping
    after each.

    Images without three channels get the first two only.

    Args:
      draws: (DRAWS,) uniform in [0, 1).
      strength: x of each; factors are uniform in [max(0, 1 - x), 1 + x], the hue's shift in
        [-x, x].
      kind: which code's brightness, contrast and saturation. BYOL's brightness adds a number in
        [-x, x].
      serial: use the form for a loop over images on a CPU.
    """
    x = np.asarray(strength, np.float32)
    low = np.maximum(1.0 - x, 0.0)
    signed = x * (2.0 * draws[:4] - 1.0)
    factor = low + (1.0 + x - low) * draws[:4]
    brighten = (
        photometric.added_brightness(image, signed[0])
        if kind == "byol"
        else photometric.brightness(image, factor[0])
    )
    amounts = _Amounts(brighten, factor[1], factor[2], signed[3], kind == "torchvision")
    colour = image.shape[0] == 3
    present = [op for op in range(4) if strength[op] and (colour or op < SATURATION)]
    orders, which = _order(present, draws[4:])
    if serial:
        return _serial(image, amounts, present, orders, which)
    # Position of each adjustment in the order; absent ones come after all others.
    places = np.array([[o.index(op) if op in o else 4 for op in range(4)] for o in orders])
    return _batched(image, amounts, present, jnp.asarray(places.astype(np.int32))[which])


def _order(present: list[int], draws: Array) -> tuple[list[tuple[int, ...]], Array]:
    """Return all orders of the adjustments in `present`, and the index of a random one."""
    orders = list(itertools.permutations(op for op in present if op != HUE))
    which = _choice(draws[0], len(orders))
    if HUE not in present:
        return orders, which
    # The hue goes before, between or after the others.
    n = len(present)
    return [(*o[:a], HUE, *o[a:]) for o in orders for a in range(n)], n * which + _choice(
        draws[1], n
    )


def _serial(
    image: Array, amounts: _Amounts, present: list[int], orders: list[tuple[int, ...]], which: Array
) -> Array:
    contrast = photometric.contrast if amounts.native else photometric.channel_contrast
    saturation = photometric.saturation if amounts.native else photometric.hsv_saturation
    ops: dict[int, Callable[[Array], Array]] = {
        BRIGHTNESS: lambda im: adjust(im, amounts.brightness),
        CONTRAST: lambda im: adjust(im, contrast(im, amounts.contrast)),
        SATURATION: lambda im: adjust(im, saturation(im, amounts.saturation)),
        HUE: lambda im: photometric.hue(im, amounts.hue),
    }
    branches = np.array([[present.index(op) for op in o] for o in orders], np.int32)
    for branch in jnp.asarray(branches)[which]:
        image = jax.lax.switch(branch, [ops[op] for op in present], image)
    return image


def _batched(image: Array, amounts: _Amounts, present: list[int], place: Array) -> Array:
    saturation = photometric.saturation if amounts.native else photometric.hsv_saturation
    saturation_first = place[SATURATION] < place[HUE]
    brightness_first = place[BRIGHTNESS] < place[CONTRAST]

    def gap(op: int) -> Array:
        """Return which of the program's four pairs brightness or contrast belongs to."""
        before = (place[SATURATION] < place[op]).astype(jnp.int32) + (place[HUE] < place[op])
        return jnp.where(saturation_first, before, before + 1)

    gaps = [gap(BRIGHTNESS), gap(CONTRAST)]

    def run(planes: Planes, until: Array | int, means: Sequence[Array]) -> Planes:
        """Apply the adjustments that come before position `until` in the order."""

        def pair(planes: Planes, here: int) -> Planes:
            def line(op: int, line: Line) -> Line:
                on = (gaps[op] == here) & (place[op] < until)
                return Line(jnp.where(on, line.scale, 1.0), jnp.where(on, line.offset, 0.0))

            out = []
            for x, mean in zip(planes, means, strict=True):
                a = line(BRIGHTNESS, amounts.brightness)
                b = line(CONTRAST, Line(amounts.contrast, (1.0 - amounts.contrast) * mean))
                first, second = (
                    Line(*(jnp.where(brightness_first, u, v) for u, v in zip(*ab, strict=True)))
                    for ab in ((a, b), (b, a))
                )
                out.append(adjust(adjust(x, first), second))
            return out

        def saturate(planes: Planes, here: Array) -> Planes:
            if SATURATION not in present:
                return planes
            on = here & (place[SATURATION] < until)
            line = saturation(planes, jnp.where(on, amounts.saturation, 1.0))
            return [adjust(x, line) for x in planes]

        if SATURATION not in present and HUE not in present:
            return pair(planes, 1)
        planes = pair(saturate(pair(planes, 0), saturation_first), 1)
        if HUE in present:
            turn = jnp.where(place[HUE] < until, amounts.hue, 0.0)
            planes = photometric.turned_planes(planes, turn)
        return pair(saturate(pair(planes, 2), ~saturation_first), 3)

    planes = list(image)
    means: Sequence[Array] = [jnp.zeros((), jnp.float32)] * len(planes)
    if CONTRAST in present:
        before = run(planes, place[CONTRAST], means)
        if amounts.native:
            means = [photometric.luminance(before).mean()] * len(planes)
        else:
            means = [x.mean() for x in before]
    return jnp.stack(run(planes, len(present), means))


def _choice(draw: Array, n: int) -> Array:
    """Map a uniform draw in [0, 1) to an integer in 0 to n - 1."""
    return jnp.minimum((draw * n).astype(jnp.int32), n - 1)
