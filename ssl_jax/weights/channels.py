"""Weights for images of another number of channels than a network was trained on."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import Array

Rule = Literal["repeat", "mean", "zero"]
RULES: tuple[Rule, ...] = get_args(Rule)


def converted(kernel: Array, count: int, rule: Rule) -> Array:
    """Convert the kernel (..., c, D) of a first layer to `count` channels, (..., count, D).

    "repeat": channel i has the weights of channel i modulo c, times c / count, as timm's
    `adapt_input_conv`; only for more channels. "mean": every channel has the mean of all, times
    c / count. With both, an image whose channels are repeated a whole number of times (repeat) or
    all equal (mean) gives the output that it gave before. "zero": the first channels keep their
    weights, those that are new start at 0, and weights of channels that are left out are dropped.

    Example: `converted(kernel, 6, "zero")` reads red, green and blue from the first 3 of 6 bands.

    Raises:
      UserError: an unknown rule, or "repeat" for fewer channels.
    """
    own = kernel.shape[-2]
    if rule not in RULES:
        raise UserError(f"channels: unknown rule {rule!r}; known: {', '.join(RULES)}")
    if rule == "zero":
        extra = [(0, 0)] * kernel.ndim
        extra[-2] = (0, max(0, count - own))
        return jnp.pad(kernel[..., :count, :], extra)
    if rule == "repeat" and count < own:
        raise UserError(
            f"repeat: {count} channels from {own} leave nothing to repeat; use mean or zero"
        )
    if rule == "mean":
        repeated = jnp.repeat(jnp.mean(kernel, -2, keepdims=True), count, -2)
    else:
        repeated = kernel[..., jnp.arange(count) % own, :]
    return repeated * (own / count)


def reads_image(shape: tuple[int, ...], like: tuple[int, ...], own: int, count: int) -> bool:
    """Tell whether a variable of this shape is a first layer for `own` channels, and would have the
    shape `like` for `count`.
    """
    if len(shape) < 2 or len(shape) != len(like) or own == count:
        return False
    return shape == (*like[:-2], own, like[-1]) and like[-2] == count


def check(rule: str, own: int, count: int, key: str, what: str) -> None:
    """Check that there is a rule if it is needed, and none that would change nothing.

    Args:
      key: the key of the config that sets the rule.
      what: the weights, for messages.

    Raises:
      UserError: no rule for another number of channels, or a rule for the same.
    """
    if own != count and not rule:
        raise UserError(
            f"{what} is for images of {own} channels, the data have {count}; set {key} to "
            f"{', '.join(RULES[:-1])} or {RULES[-1]} (docs/weights.md), or data.channels={own}"
        )
    if own == count and rule:
        raise UserError(
            f"{key}: {rule!r} would change nothing: {what} and the data have {own} channels each; "
            "leave it out, or set data.channels"
        )


def fitted(
    variables: Mapping[str, Any], like: Mapping[str, tuple[int, ...]], own: int, count: int,
    rule: Rule,
) -> dict[str, Any]:  # fmt: skip
    """Convert the first layers among variables by path, for networks whose variables have the
    shapes `like`; leave the others as they are.
    """
    return {
        path: converted(x, count, rule)
        if path in like and reads_image(tuple(x.shape), tuple(like[path]), own, count)
        else x
        for path, x in variables.items()
    }
