"""Named chains of augmentation, and their application to a batch inside the train step.

A chain has two forms with the same result. Everywhere it runs batched, by `vmap`, where an
operation that is not drawn is computed and thrown away: an accelerator does not notice. A single
CPU device does, so there images go one after another through real branches ("serial"): 224 px views
of SimCLR's chain cost a tenth (docs/performance.md).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment import filters, geometric, photometric
from ssl_jax.augment.jitter import DRAWS as JITTER_DRAWS
from ssl_jax.augment.jitter import color_jitter
from ssl_jax.augment.rand_augment import rand_augment
from ssl_jax.core import rng
from ssl_jax.core.chain import Affine, Recipe, Strengths
from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.inputs import Inputs, View

Array = jax.Array
BLUR_SIGMA = (0.1, 2.0)  # pixels
_DRAWS = 18  # scalars that a chain draws for an image


_UNIT: Mapping[str, Any] = {"mean": (0.0,), "std": (1.0,)}  # SimCLR's code feeds [0, 1] as it is
_STRONG_HUE = (0.4, 0.4, 0.4, 0.4)
_DIGITS: Mapping[str, Any] = {
    "jitter": (0.4, 0.0, 0.0, 0.0),
    "jitter_p": 1.0,
    "noise": 0.1,
    "mean": (0.305,),  # of the training digits
    "std": (0.376,),
}

RECIPES: dict[str, Recipe] = {
    "none": Recipe(**_UNIT),
    "flip": Recipe(flip=0.5, **_UNIT),
    # Chen et al. 2020; google-research/simclr, data_util.py; for CIFAR s = 0.5 without blur.
    "simclr": Recipe(0.5, None, (0.8, 0.8, 0.8, 0.2), 0.8, "simclr", 0.2, 0.5, **_UNIT),
    "simclr_cifar": Recipe(0.5, None, (0.4, 0.4, 0.4, 0.1), 0.8, "simclr", 0.2, **_UNIT),
    # Chen, Fan, Girshick, He 2020; facebookresearch/moco, --aug-plus.
    "moco_v2": Recipe(0.5, None, (0.4, 0.4, 0.4, 0.1), 0.8, "torchvision", 0.2, 0.5),
    # The authors' CIFAR demo: without blur. SimSiam's on CIFAR too (2011.10566, appendix D).
    "moco_cifar": Recipe(0.5, None, (0.4, 0.4, 0.4, 0.1), 0.8, "torchvision", 0.2),
    # He et al. 2019; facebookresearch/moco.
    "moco_v1": Recipe(0.5, None, _STRONG_HUE, 1.0, "torchvision", 0.2, gray_first=True),
    # Grill et al. 2020, table 6: the two views differ.
    "byol_1": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "byol", 0.2, 1.0, 0.0),
    "byol_2": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "byol", 0.2, 0.1, 0.2),
    # Caron et al. 2021; facebookresearch/dino: the two global views differ, the local ones are a
    # third kind. Barlow Twins and MoCo v3 have the two global ones: BYOL's with PyTorch's jitter.
    "dino_1": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "torchvision", 0.2, 1.0),
    "dino_2": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "torchvision", 0.2, 0.1, 0.2),
    "dino_local": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "torchvision", 0.2, 0.5),
    # Amrani et al. 2021; elad-amrani/self-classifier: DINO's, otherwise shared out.
    "self_classifier_1": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "torchvision", 0.2, 0.1),
    "self_classifier_2": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "torchvision", 0.2, 1.0, 0.2),
    # Caron et al. 2020; facebookresearch/swav: with a typing error in the red channel's deviation.
    "swav": Recipe(
        0.5, None, (0.8, 0.8, 0.8, 0.2), 0.8, "torchvision", 0.2, 0.5, std=(0.228, 0.224, 0.225)
    ),
    # solo-learn's CIFAR views: without blur, the second one solarized.
    "byol_cifar_1": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "torchvision", 0.2),
    "byol_cifar_2": Recipe(0.5, None, (0.4, 0.4, 0.2, 0.1), 0.8, "torchvision", 0.2, 0.0, 0.2),
    # Wu et al. 2018; zhirongw/lemniscate.pytorch.
    "instdisc": Recipe(0.5, None, _STRONG_HUE, 1.0, "torchvision", 0.2, gray_first=True),
    "instdisc_cifar": Recipe(0.0, None, _STRONG_HUE, 1.0, "torchvision", 0.2, gray_first=True),
    "mae": Recipe(flip=0.5),  # SimMIM's too
    "normalize": Recipe(),  # I-JEPA
    # What public networks are fed that are not fed so: Google's ViTs, and CLIP's.
    "normalize_half": Recipe(mean=(0.5,), std=(0.5,)),
    "normalize_clip": Recipe(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    ),
    # Fine-tuning of MAE and BEiT: timm's rand-m9-mstd0.5-inc1.
    "finetune": Recipe(flip=0.5, rand_augment=9.0),
    "finetune_beit": Recipe(flip=0.5, rand_augment=9.0, mean=(0.5,), std=(0.5,)),
    # Bao et al. 2021; microsoft/unilm, beit/datasets.py.
    "beit": Recipe(0.5, None, (0.4, 0.4, 0.4, 0.0), 1.0, mean=(0.5,), std=(0.5,)),
    "rotnet": Recipe(flip=0.5),
    # Jigsaw and context prediction as Goyal et al. 2019 (VISSL) and Kolesnikov et al. 2019 train
    # them: two images in three are grey.
    "patches": Recipe(flip=0.5, gray_p=0.66),
    # Small grey pictures that mean something else mirrored; upright: little turned, for RotNet.
    "digits": Recipe(affine=Affine(0.35, 0.25, 0.3, 1.5 / 8), **_DIGITS),
    "digits_upright": Recipe(affine=Affine(0.15, 0.25, 0.3, 1.5 / 8), **_DIGITS),
}


OWN = (
    " (a chain of your own is given in full, --config.objective.view.recipe=\"{'flip': 0.5}\", see "
    "docs/configs.md)"
)
PUBLISHED: Mapping[str, Recipe] = MappingProxyType(dict(RECIPES))  # what every reader of a run has


def recipe(chain: str | Recipe) -> Recipe:
    """The chain of this name, or the one that is given.

    Raises:
      UserError: there is none; the message names the nearest.
    """
    if isinstance(chain, Recipe):
        return chain
    if chain not in RECIPES:
        raise UserError(f"unknown recipe {chain!r}; {suggest(chain, RECIPES)}{OWN}")
    return RECIPES[chain]


def check(inputs: Inputs) -> None:
    """Look up the chains of all views, before anything is compiled.

    Raises:
      UserError: an unknown name.
    """
    for view in inputs.views:
        recipe(view.recipe)
    for _, stream in inputs.streams:
        check(stream)


def portable(view: View) -> View:
    """The view as a run keeps it: a name that a config file added to `RECIPES`, or gave another
    chain, is replaced by the chain, as whoever reads the run has no such name.
    """
    chain = recipe(view.recipe)
    if isinstance(view.recipe, str) and PUBLISHED.get(view.recipe) != chain:
        return dataclasses.replace(view, recipe=chain)
    return view


def plain(chain: str | Recipe) -> str | dict[str, Any]:
    """A view's `recipe` as a JSON value."""
    return chain if isinstance(chain, str) else dataclasses.asdict(chain)


def title(chain: str | Recipe | Mapping[str, Any]) -> str:
    """A view's `recipe`, or its JSON value, in a few words."""
    return chain if isinstance(chain, str) else "a chain of its own"


def augment(inputs: Inputs, batch: Mapping[str, Any], key: Array) -> dict[str, Any]:
    """The batch with its views augmented and normalised. To be called inside the jitted train step.

    The draws of a view are keyed by (key, view group, batch["index"], number of the view), so they
    depend neither on the example's place in the batch nor on the device count.

    Args:
      inputs: names the recipe and the strength of each view group.
      batch: `views`, a tuple of (B, count, H, W, C) uint8, one a view group; `index` (B,) int32.
      key: the step's.

    Returns:
      `batch` with `views` float32, in the streams' sub-batches too.

    Raises:
      UserError: an unknown recipe.
    """
    views = []
    for g, (view, images) in enumerate(zip(inputs.views, batch["views"], strict=True)):
        keys = rng.per_example(rng.named(key, f"view{g}"), batch["index"])
        keys = jax.vmap(rng.per_example, (0, None))(keys, jnp.arange(view.count))
        views.append(_every(recipe(view.recipe), keys, images, view.strength))
    streams = {
        name: augment(sub, batch[name], rng.named(key, name)) for name, sub in inputs.streams
    }
    return {**batch, "views": tuple(views), **streams}


def prepare(view: View, images: Array) -> Array:
    """(..., H, W, C) uint8 to float32, normalised as the view's recipe says: no randomness."""
    return _normalize(recipe(view.recipe), _unit(images))


def pixels(view: View, images: np.ndarray) -> np.ndarray:
    """The inverse of `prepare`, to look at: uint8, cut to what can be shown."""
    mean, std = statistics(recipe(view.recipe), images.shape[-1])
    return np.clip((images * std + mean) * 255 + 0.5, 0, 255).astype(np.uint8)


def apply(
    chain: Recipe, key: Array, image: Array, strength: float = 1.0, serial: bool = False
) -> Array:
    """One image, (H, W, C) float32 in [0, 1], through `chain`; `strength` scales its distortions.

    Scaled are the ranges of the affine map, of the jitter and of the noise, not the probabilities.
    `serial` is the form for a loop over images on a CPU, where what is not drawn costs nothing; the
    result is the same.
    """
    on = jax.random.uniform(
        jax.random.fold_in(key, 0), (_DRAWS,)
    )  # at once: each costs compile time

    def maybe(drawn: Array, change: Callable[[Array], Array], image: Array) -> Array:
        if serial:
            return jax.lax.cond(drawn, change, lambda same: same, image)
        return jnp.where(drawn, change(image), image)

    ranges, amounts = chain.affine, _scaled(chain.jitter, strength)
    if chain.flip:
        image = maybe(on[0] < chain.flip, geometric.flip, image)
    if ranges and strength:
        image = _affine(ranges, on[1:7], image, strength)
    image = jnp.moveaxis(image, -1, 0)
    if chain.rand_augment and strength:
        fill = statistics(chain, len(image))[0]
        own = jax.random.fold_in(key, 2)
        image = rand_augment(own, image, strength * chain.rand_augment, fill)
    if chain.gray_p and chain.gray_first:
        image = maybe(on[14] < chain.gray_p, photometric.grayscale, image)
    if any(amounts):
        draws = on[7 : 7 + JITTER_DRAWS]
        image = maybe(
            on[13] < chain.jitter_p,
            lambda im: color_jitter(im, draws, amounts, chain.jitter_kind, serial),
            image,
        )
    if chain.gray_p and not chain.gray_first:
        image = maybe(on[14] < chain.gray_p, photometric.grayscale, image)
    if chain.blur_p:
        sigma = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * on[15]
        radius = filters.blur_radius(image.shape[1])
        image = maybe(
            on[16] < chain.blur_p,
            lambda im: filters.gaussian_blur(im, sigma, radius, serial),
            image,
        )
    if chain.solarize_p:
        image = maybe(on[17] < chain.solarize_p, photometric.solarize, image)
    image = jnp.moveaxis(image, 0, -1)
    if chain.noise and strength:
        noise = jax.random.normal(jax.random.fold_in(key, 1), image.shape)
        image = image + (strength * chain.noise) * noise
    return _normalize(chain, image)


def batched(chain: Recipe, keys: Array, images: Array, strength: float = 1.0) -> Array:
    """`apply` to (B, n, H, W, C) uint8 with (B, n) keys, by `vmap`."""
    one = functools.partial(apply, chain, strength=strength)
    return jax.vmap(jax.vmap(one))(keys, _unit(images))


def serial(chain: Recipe, keys: Array, images: Array, strength: float = 1.0) -> Array:
    """What `batched` computes, one image after another."""

    def one(pair: tuple[Array, Array]) -> Array:
        return apply(chain, pair[0], _unit(pair[1]), strength, serial=True)

    flat = jax.lax.map(one, (keys.reshape(-1), images.reshape(-1, *images.shape[2:])))
    return flat.reshape(images.shape)


def _every(chain: Recipe, keys: Array, images: Array, strength: float) -> Array:
    forms = [functools.partial(f, chain, strength=strength) for f in (serial, batched)]
    # A loop over a sharded axis would gather it; where no colours change it would save nothing.
    if jax.device_count() > 1 or not (chain.gray_p or chain.rand_augment):
        return forms[1](keys, images)
    # By the platform compiled for, which is not the one at hand when compiling ahead of time.
    return jax.lax.platform_dependent(keys, images, cpu=forms[0], default=forms[1])


def _affine(ranges: Affine, draws: Array, image: Array, strength: float) -> Array:
    angle, scale_y, scale_x, shear, down, right = strength * (2.0 * draws - 1.0)
    matrix = geometric.affine_matrix(
        ranges.rotation * angle,
        ranges.log_scale * jnp.stack([scale_y, scale_x]),
        ranges.shear * shear,
        ranges.shift * image.shape[0] * jnp.stack([down, right]),
    )
    return geometric.warp(image, matrix, ranges.padding)


def _normalize(chain: Recipe, images: Array) -> Array:
    mean, std = statistics(chain, images.shape[-1])
    return (images - mean) / std


def statistics(chain: Recipe, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, one a channel, or one number for all."""
    mean, std = np.array(chain.mean, np.float32), np.array(chain.std, np.float32)
    if channels != len(mean):
        mean, std = mean.mean(), std.mean()
    return mean, std


def _scaled(amounts: Strengths, strength: float) -> Strengths:
    brightness, contrast, saturation, hue = amounts
    return strength * brightness, strength * contrast, strength * saturation, strength * hue


def _unit(images: Array) -> Array:
    return images.astype(jnp.float32) * np.float32(1.0 / 255.0)
