"""Colour jitter of planes, (C, H, W) float32 in [0, 1]: four adjustments in random order.

Two forms with the same result, see `recipes`. Serial: one adjustment after the other, by real
branches. Batched: under `vmap` every branch is computed, so a fixed program holds all 24 orders,

    bc S bc H bc S bc    (bc: brightness and contrast in either order; S saturation, H hue)

where what an order does not use is an identity. Contrast alone needs the whole image, the mean as
it stands before it: the program runs up to there first, and then anew with the mean known. So all
of it is work on single pixels that XLA can fuse, which for a TPU halves the bytes.
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
    native: bool  # torchvision's contrast and saturation


def color_jitter(
    image: Array,
    draws: Array,
    strength: tuple[float, float, float, float],
    kind: Kind = "torchvision",
    serial: bool = False,
) -> Array:
    """Brightness, contrast, saturation and hue by random amounts, in random order, each clipped.

    An image without three channels has the first two only.

    Args:
      draws: (DRAWS,) uniform in [0, 1).
      strength: x of each; factors are uniform in [max(0, 1 - x), 1 + x], the hue's turn in [-x, x].
      kind: whose brightness, contrast and saturation. BYOL's brightness adds a number in [-x, x].
      serial: the form for a loop over images on a CPU.
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
    # Where each adjustment stands in the order; one that is not there comes after all.
    places = np.array([[o.index(op) if op in o else 4 for op in range(4)] for o in orders])
    return _batched(image, amounts, present, jnp.asarray(places.astype(np.int32))[which])


def _order(present: list[int], draws: Array) -> tuple[list[tuple[int, ...]], Array]:
    """All orders of what is present, and the place in that list of the one drawn."""
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
        """Which of the four pairs of the program brightness or contrast belongs to."""
        before = (place[SATURATION] < place[op]).astype(jnp.int32) + (place[HUE] < place[op])
        return jnp.where(saturation_first, before, before + 1)

    gaps = [gap(BRIGHTNESS), gap(CONTRAST)]

    def run(planes: Planes, until: Array | int, means: Sequence[Array]) -> Planes:
        """The adjustments that stand before `until` in the order."""

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
    """0 to n - 1 from a uniform draw in [0, 1)."""
    return jnp.minimum((draw * n).astype(jnp.int32), n - 1)
