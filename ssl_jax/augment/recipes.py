"""Chains of augmentation applied to a batch inside the train step.

A chain has two forms with the same result. The batched form uses `vmap`, which computes every
operation and discards those that the random draw switches off; accelerators do not notice that.
A single CPU device uses the serial form, which takes one image after another through real branches:
for 224 px views of SimCLR's chain it takes a tenth of the time (docs/performance.md).
"""

import dataclasses
import functools
import itertools
import typing
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import background, color, filters, geometric, photometric
from ssl_jax.augment.chains import RECIPES
from ssl_jax.augment.jitter import DRAWS as JITTER_DRAWS
from ssl_jax.augment.jitter import color_jitter
from ssl_jax.augment.rand_augment import rand_augment
from ssl_jax.core import rng
from ssl_jax.core.chain import Affine, Background, Chain, Strengths, Transform
from ssl_jax.core.config import options, types_of
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.inputs import Inputs, View

Array = jax.Array
BLUR_SIGMA = (0.1, 2.0)  # pixels
_DRAWS = 18  # random scalars per image


OWN = (
    "; or write out a chain of your own, --config.objective.view.recipe=\"{'flip': 0.5}\", see "
    "docs/configs.md"
)
Recipe = Transform  # the name that users' configs know it by
PUBLISHED: Mapping[str, Transform] = MappingProxyType(
    dict(RECIPES)
)  # names known to every reader of a run


def recipe(chain: Chain) -> Transform:
    """Return the chain called `chain`; a `Transform` is returned as it is.

    Raises:
      UserError: no chain has this name; the message names the nearest.
    """
    if isinstance(chain, Transform):
        return chain
    if chain not in RECIPES:
        raise UserError(f"unknown recipe {chain!r}; {suggest(chain, RECIPES)}{OWN}")
    return RECIPES[chain]


def check(inputs: Inputs) -> None:
    """Look up the chains of all views, before anything is compiled.

    Raises:
      UserError: a view names an unknown chain, one that moves pixels without a placement, or one
        that needs masks which the batch does not have.
    """
    for view in inputs.views:
        chain = recipe(view.recipe)
        if chain.background and not inputs.masks:
            raise UserError(
                "view.recipe.background: this method requests no masks; use a chain without it"
            )
        if chain.rand_augment and (inputs.placement or inputs.masks):
            raise UserError(
                "view.recipe: RandAugment moves pixels, but neither masks nor the placement that "
                "this method needs; use a chain without rand_augment"
            )
    for _, stream in inputs.streams:
        check(stream)


def check_own(method: Any, inputs: Inputs) -> None:
    """Check the chains that a method applies itself, to pieces, patches or a second set of crops:
    those among its fields that are not in its `inputs`. They get no masks.

    Raises:
      UserError: such a chain is unknown, or replaces backgrounds; the message names its key.
    """
    for key, chain in own_chains(method, inputs):
        if recipe(chain).background:
            raise UserError(
                f"{key}.background: this method applies the chain itself, to images without masks; "
                "use a chain without it"
            )


def own_chains(method: Any, inputs: Inputs) -> Iterator[tuple[str, Chain]]:
    """Iterate over (key, chain) of the chains that a method applies itself; see `check_own`."""
    of_pipeline = set(_views(inputs))

    def walk(value: Any, hint: Any, key: str) -> Iterator[tuple[str, Chain]]:
        if isinstance(value, View) and value in of_pipeline:
            return
        if isinstance(value, Transform) or (isinstance(value, str) and is_chain(hint)):
            yield key, value
        elif isinstance(value, tuple) and typing.get_args(hint):
            kinds = itertools.chain(typing.get_args(hint), itertools.repeat(...))
            first = typing.get_args(hint)[0]
            for i, (part, kind) in enumerate(zip(value, kinds, strict=False)):
                yield from walk(part, first if kind is ... else kind, f"{key}.{i}")
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            hints = types_of(type(value))
            for field in dataclasses.fields(value):
                yield from walk(
                    getattr(value, field.name), hints[field.name], f"{key}.{field.name}"
                )

    hints = types_of(type(method))
    for field in dataclasses.fields(method):
        if field.name not in ("backbone", "spec"):
            yield from walk(
                getattr(method, field.name), hints[field.name], f"objective.{field.name}"
            )


def is_chain(hint: Any) -> bool:
    """Tell whether a field of the type `hint` holds a chain."""
    return Transform in options(hint)


def _views(inputs: Inputs) -> Iterator[View]:
    yield from inputs.views
    for _, stream in inputs.streams:
        yield from _views(stream)


def portable(chain: Chain) -> Chain:
    """Return a chain as a run stores it. If a config file added its name to `RECIPES`, or redefined
    it, the chain replaces the name, which readers of the run do not know.
    """
    complete = recipe(chain)
    known = isinstance(chain, str) and PUBLISHED.get(chain) == complete
    return chain if known else complete


def plain(chain: Chain) -> str | dict[str, Any]:
    """Convert a view's `recipe` to a JSON value."""
    return chain if isinstance(chain, str) else dataclasses.asdict(chain)


def title(chain: Chain | Mapping[str, Any]) -> str:
    """Describe a view's `recipe`, or its JSON value, in a few words."""
    return chain if isinstance(chain, str) else "a chain of its own"


def augment(inputs: Inputs, batch: Mapping[str, Any], key: Array) -> dict[str, Any]:
    """Augment and normalise the views of a batch, inside the jitted train step.

    The draws of a view are keyed by (key, view group, batch["index"], number of the view), so they
    depend neither on the example's place in the batch nor on the device count.

    Args:
      inputs: the recipe and the strength of each view group.
      batch: a batch of the host, see `Inputs`.
      key: the step's random key.

    Returns:
      `batch` as the loss receives it, see `Inputs`, also in the streams' sub-batches.

    Raises:
      UserError: an unknown recipe.
    """
    out = {**batch}
    views, places, masks = [], [], []
    for g, (view, images) in enumerate(zip(inputs.views, batch["views"], strict=True)):
        keys = rng.per_example(rng.named(key, f"view{g}"), batch["index"])
        keys = jax.vmap(rng.per_example, (0, None))(keys, jnp.arange(view.count))
        chain = recipe(view.recipe)
        if inputs.masks and chain.background:  # without masks: evaluations under the method's views
            images = background.replace(
                chain.background,
                rng.named(key, f"background{g}"),
                batch["index"],
                images,
                batch["masks"][g],
                untouched=1 if inputs.matched and g == 0 else 0,
            )
        views.append(_every(chain, keys, images, view.strength))
        if inputs.placement:
            moves = functools.partial(place, chain, sides=view.sides, strength=view.strength)
            crop = batch["placement"][g]
            places.append(geometric.compose(crop, jax.vmap(jax.vmap(moves))(keys)))
        if inputs.masks:
            move = functools.partial(apply_to_mask, chain, strength=view.strength)
            masks.append(jax.vmap(jax.vmap(move))(keys, batch["masks"][g]))
    out["views"] = tuple(views)
    if inputs.placement:
        out["placement"] = tuple(places)
    if inputs.masks:
        out["masks"] = tuple(masks)
    if inputs.matched:
        out["matched"] = _matched(inputs.views[0], batch, rng.named(key, "matched"))
    if inputs.sound:
        out["sound"] = batch["sound"].astype(jnp.float32) * np.float32(2.0**-15)
    return out | {
        name: augment(sub, batch[name], rng.named(key, name)) for name, sub in inputs.streams
    }


def prepare(view: View, images: Array) -> Array:
    """Normalise (..., H, W, C) uint8 as the view's recipe does, without randomness; float32."""
    return _normalize(recipe(view.recipe), _unit(images))


def unit(view: View, images: Array) -> Array:
    """Invert the normalisation of images (..., H, W, C): values in [0, 1]."""
    mean, std = statistics(recipe(view.recipe), images.shape[-1])
    return jnp.clip(images * std + mean, 0.0, 1.0)


def normalize(view: View, images: Array) -> Array:
    """Normalise images (..., H, W, C) with values in [0, 1] as the view's recipe does."""
    return _normalize(recipe(view.recipe), images)


def pixels(view: View, images: np.ndarray) -> np.ndarray:
    """Invert `prepare`, for display: uint8, clipped to [0, 255]."""
    mean, std = statistics(recipe(view.recipe), images.shape[-1])
    images = np.asarray(color.to_rgb(recipe(view.recipe).space, images * std + mean))
    return np.clip(images * 255 + 0.5, 0, 255).astype(np.uint8)


def apply(
    chain: Transform, key: Array, image: Array, strength: float = 1.0, serial: bool = False
) -> Array:
    """Apply `chain` to one image, (H, W, C) float32 in [0, 1], and normalise it.

    `strength` scales the ranges of the affine map and of the jitter, the noise and the magnitude of
    RandAugment, not the probabilities. `serial` selects the form for a loop over images on a CPU,
    which skips operations that the draw switches off; the result is the same.
    """
    draws = _draws(key)

    def maybe(condition: Array, change: Callable[[Array], Array], image: Array) -> Array:
        if serial:
            return jax.lax.cond(condition, change, lambda same: same, image)
        return jnp.where(condition, change(image), image)

    ranges, amounts = chain.affine, _scaled(chain.jitter, strength)
    if chain.flip:
        image = maybe(draws[0] < chain.flip, geometric.flip, image)
    if ranges and strength:
        matrix = _affine_matrix(ranges, draws[1:7], image.shape[:2], strength)
        image = geometric.warp(image, matrix, ranges.padding)
    image = jnp.moveaxis(image, -1, 0)
    if chain.rand_augment and strength:
        fill = statistics(chain, len(image))[0]
        layers_key = jax.random.fold_in(key, 2)
        image = rand_augment(layers_key, image, strength * chain.rand_augment, fill)
    if chain.gray_p and chain.gray_first:
        image = maybe(draws[14] < chain.gray_p, photometric.grayscale, image)
    if any(amounts):
        jitter_draws = draws[7 : 7 + JITTER_DRAWS]
        image = maybe(
            draws[13] < chain.jitter_p,
            lambda im: color_jitter(im, jitter_draws, amounts, chain.jitter_kind, serial),
            image,
        )
    if chain.gray_p and not chain.gray_first:
        image = maybe(draws[14] < chain.gray_p, photometric.grayscale, image)
    if chain.blur_p:
        sigma = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * draws[15]
        radius = filters.blur_radius(image.shape[1])
        image = maybe(
            draws[16] < chain.blur_p,
            lambda im: filters.gaussian_blur(im, sigma, radius, serial),
            image,
        )
    if chain.solarize_p:
        image = maybe(draws[17] < chain.solarize_p, photometric.solarize, image)
    image = jnp.moveaxis(image, 0, -1)
    if chain.noise and strength:
        noise = jax.random.normal(jax.random.fold_in(key, 1), image.shape)
        image = image + (strength * chain.noise) * noise
    return _normalize(chain, image)


def place(chain: Transform, key: Array, sides: tuple[int, int], strength: float = 1.0) -> Array:
    """Return where `apply` with the same arguments takes pixels from: the map (2, 3) from the
    augmented image of (height, width) `sides` to the image before, a placement (see `Inputs`).
    """
    draws = _draws(key)
    placement = jnp.asarray(geometric.IDENTITY)
    if chain.flip:
        mirrored = draws[0] < chain.flip
        placement = jnp.where(mirrored, geometric.MIRROR, placement)
    if chain.affine and strength:
        matrix = _affine_matrix(chain.affine, draws[1:7], sides, strength)
        placement = geometric.compose(placement, geometric.placement(matrix, sides))
    return placement


def apply_to_mask(chain: Transform, key: Array, mask: Array, strength: float = 1.0) -> Array:
    """Move the pixels of a mask (H, W) as `apply` with the same arguments moves an image's; each
    takes the value at the nearest pixel, or 0 outside if the image is padded with zeros.
    """
    draws = _draws(key)
    if chain.flip:
        mask = jnp.where(draws[0] < chain.flip, geometric.flip(mask), mask)
    if chain.affine and strength:
        matrix = _affine_matrix(chain.affine, draws[1:7], mask.shape, strength)
        padding = chain.affine.padding
        mask = geometric.warp(mask[..., None], matrix, padding, "nearest")[..., 0]
    return mask


def batched(chain: Transform, keys: Array, images: Array, strength: float = 1.0) -> Array:
    """Apply `chain` to (B, n, H, W, C) uint8 images with (B, n) keys by `vmap`."""
    augment_image = functools.partial(apply, chain, strength=strength)
    return jax.vmap(jax.vmap(augment_image))(keys, _unit(images))


def serial(chain: Transform, keys: Array, images: Array, strength: float = 1.0) -> Array:
    """Compute the same as `batched`, one image after another."""

    def augment_image(pair: tuple[Array, Array]) -> Array:
        return apply(chain, pair[0], _unit(pair[1]), strength, serial=True)

    flat = jax.lax.map(augment_image, (keys.reshape(-1), images.reshape(-1, *images.shape[2:])))
    return flat.reshape(images.shape)


def _every(chain: Transform, keys: Array, images: Array, strength: float) -> Array:
    forms = [functools.partial(f, chain, strength=strength) for f in (serial, batched)]
    # A loop over a sharded axis would gather it; without changes of colour it would save nothing.
    if jax.device_count() > 1 or not (chain.gray_p or chain.rand_augment):
        return forms[1](keys, images)
    # Chosen by the target platform, which differs from this one in ahead-of-time compilation.
    return jax.lax.platform_dependent(keys, images, cpu=forms[0], default=forms[1])


def _matched(view: View, batch: Mapping[str, Any], key: Array) -> Array:
    """Make `matched` of `Inputs`, augmented by the chain of the first view."""
    chain, index = recipe(view.recipe), batch["index"]
    images = background.matched(
        chain.background or Background(), key, index, batch["views"][0], batch["masks"][0]
    )
    keys = rng.per_example(rng.named(key, "chain"), index)
    return _every(chain, keys[:, None], images[:, None], view.strength)[:, 0]


def _draws(key: Array) -> Array:
    # All draws in one call, because each call adds compile time.
    return jax.random.uniform(jax.random.fold_in(key, 0), (_DRAWS,))


def _affine_matrix(ranges: Affine, draws: Array, sides: tuple[int, ...], strength: float) -> Array:
    angle, scale_y, scale_x, shear, down, right = strength * (2.0 * draws - 1.0)
    height, width = (ranges.shift * side for side in sides)
    return geometric.affine_matrix(
        ranges.rotation * angle,
        ranges.log_scale * jnp.stack([scale_y, scale_x]),
        ranges.shear * shear,
        jnp.stack([height * down, width * right]),
    )


def _normalize(chain: Transform, images: Array) -> Array:
    mean, std = statistics(chain, images.shape[-1])
    return (color.from_rgb(chain.space, images) - mean) / std


def statistics(chain: Transform, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation, per channel or one number for all."""
    mean, std = np.array(chain.mean, np.float32), np.array(chain.std, np.float32)
    if channels != len(mean):
        mean, std = mean.mean(), std.mean()
    return mean, std


def _scaled(amounts: Strengths, strength: float) -> Strengths:
    brightness, contrast, saturation, hue = amounts
    return strength * brightness, strength * contrast, strength * saturation, strength * hue


def _unit(images: Array) -> Array:
    """Convert bytes to [0, 1], in float32, or in float64 if JAX computes in 64 bits: XLA repeats
    the normalisation in every kernel that reads the images, and may round it differently in each.
    """
    return images.astype(jnp.result_type(float)) * np.float32(1.0 / 255.0)
