"""Views in example-major order: an example's views are adjacent, so that folding moves no data."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.augment import photometric, recipes
from ssl_jax.core import rng
from ssl_jax.core.chain import Chain, Transform
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.nets.functional import Net

Array = jax.Array


def fold(*groups: Array) -> Array:
    """Fold groups of views of one size, each (B, n, ...), to (B * sum(n), ...), example-major.

    With two views in all, the positive of row i is row `i ^ 1`.
    """
    x = groups[0] if len(groups) == 1 else jnp.concatenate(groups, axis=1)
    return x.reshape(-1, *x.shape[2:])


def separate(groups: Sequence[Array]) -> list[Array]:
    """Split groups of views (B, n, H, W, C) into single views (B, H, W, C), in order."""
    return [group[:, i] for group in groups for i in range(group.shape[1])]


def unfold(x: Array, views: int) -> Array:
    """Reshape (B * views, ...) back to (B, views, ...)."""
    return x.reshape(-1, views, *x.shape[1:])


def renormalize(images: Array, own: Chain, other: Chain) -> Array:
    """Normalise images (B, H, W, C) by the mean and deviation of another recipe than their own.

    Raises:
      UserError: the recipes have different colour spaces.
    """
    chains = [recipes.recipe(r) for r in (own, other)]
    if chains[0].space != chains[1].space:
        raise UserError(
            f"objective: the images are in {chains[0].space!r} and the recipe {other!r} is for "
            f"{chains[1].space!r}; use one of the same colour space"
        )
    statistics = (recipes.statistics(chain, images.shape[-1]) for chain in chains)
    (mean, std), (other_mean, other_std) = (
        (jnp.asarray(m, images.dtype), jnp.asarray(s, images.dtype)) for m, s in statistics
    )
    return (images * std + mean - other_mean) / other_std


def augmented_frames(view: View, batch: Mapping[str, Any], key: Array) -> Array:
    """Return the frames (B, T, H, W, C) of a batch, augmented and normalised by the view's chain
    with the same draws for every frame of a clip.

    Raises:
      UserError: the chain replaces backgrounds, and frames have no masks.
    """
    if recipes.recipe(view.recipe).background:
        raise UserError(
            "view.recipe.background: frames of clips have no masks; use a chain without it"
        )
    keys = rng.per_example(rng.named(key, "frames"), batch["index"])
    keys = jnp.broadcast_to(keys[:, None], batch["frames"].shape[:2])
    return recipes.batched(recipes.recipe(view.recipe), keys, batch["frames"], view.strength)


def with_hsv_noise(view: View, images: Array, keys: Array) -> Array:
    """Change hue, saturation and value of images (B, n, H, W, C), normalised as in a view, at
    random and each by itself, with keys (B,); see `photometric.random_hsv_noise`.
    """
    each = jax.vmap(lambda key: jax.random.split(key, images.shape[1]))(keys)
    planes = jnp.moveaxis(recipes.unit(view, images), -1, 2)
    noisy = jax.vmap(jax.vmap(photometric.random_hsv_noise))(each, planes)
    return recipes.normalize(view, jnp.moveaxis(noisy, 2, -1)).astype(images.dtype)


def check_plain(view: View, field: str = "objective.view") -> None:
    """Check that a view is one whole image that its chain only normalises, as methods need that cut
    and change it themselves.

    Raises:
      UserError: it is not; the message names the `field`.
    """
    chain = recipes.recipe(view.recipe)
    if view.count != 1 or not view.whole:
        raise UserError(f"{field}: expected one whole image; set count=1, area=(1, 1)")
    if chain != Transform(mean=chain.mean, std=chain.std):
        raise UserError(
            f"{field}.recipe: expected no change of the image, as the method changes it itself; "
            "set mean and std only"
        )


def check_sides(view: View, backbone: Net) -> None:
    """Check that a backbone and its decoder restore images of a view's size.

    Raises:
      UserError: they do not; the message has the nearest size that they restore.
    """
    sides = tuple(backbone.config.side(n) for n in view.sides)
    if sides != view.sides:
        raise UserError(
            f"objective.view.size: {view.size} px do not fit the backbone's strides; use "
            f"{sides[0]} x {sides[1]}"
        )
