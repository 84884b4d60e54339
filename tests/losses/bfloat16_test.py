"""Losses of bfloat16 inputs: computed in float32, finite, and equal to those of the same values."""

import inspect
import itertools
import pkgutil
from functools import cache, partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax import losses
from ssl_jax.losses.align_uniform import alignment, uniformity
from ssl_jax.losses.barlow_twins import barlow_twins
from ssl_jax.losses.clip import clip_loss
from ssl_jax.losses.colorization import colorization
from ssl_jax.losses.colorization_proxy import chroma_loss, hue_loss
from ssl_jax.losses.counting import counting
from ssl_jax.losses.cpc import cpc
from ssl_jax.losses.cross_entropy import cross_entropy, soft_cross_entropy
from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views
from ssl_jax.losses.debiased import debiased
from ssl_jax.losses.decoupled import decoupled
from ssl_jax.losses.densecl import most_similar
from ssl_jax.losses.dino import teacher_probabilities
from ssl_jax.losses.discrete_codes import gumbel_softmax, uniform_divergence
from ssl_jax.losses.distillation import distillation
from ssl_jax.losses.feature_distillation import feature_distillation
from ssl_jax.losses.flatnce import flatnce
from ssl_jax.losses.gram import gram
from ssl_jax.losses.hard_negatives import hard_negatives
from ssl_jax.losses.hog import hog
from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.invaspread import invaspread
from ssl_jax.losses.koleo import koleo
from ssl_jax.losses.layer_targets import layer_targets
from ssl_jax.losses.masked import (
    masked_cosine,
    masked_l1,
    masked_mse,
    masked_patch_loss,
    masked_smooth_l1,
    normalize_patches,
)
from ssl_jax.losses.masks import mask_logistic
from ssl_jax.losses.msn import log_mean_probability, sharpened
from ssl_jax.losses.multi_label import sigmoid_cross_entropy, soft_sigmoid_cross_entropy
from ssl_jax.losses.multi_modal import (
    binary,
    feature_distance,
    margin_contrast,
    switched,
    weighted_sum,
)
from ssl_jax.losses.nce import nce
from ssl_jax.losses.nearest_neighbor import nearest_neighbor
from ssl_jax.losses.negative_cosine import negative_cosine, regression_loss
from ssl_jax.losses.nonparametric_softmax import nonparametric_softmax
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.losses.patch_nce import patch_nce
from ssl_jax.losses.pixel_pairs import (
    pixel_consistency,
    pixel_contrast,
    pooled_pixel_contrast,
)
from ssl_jax.losses.reconstruction import squared_error
from ssl_jax.losses.ressl import ressl
from ssl_jax.losses.self_classifier import self_classifier
from ssl_jax.losses.siglip import siglip
from ssl_jax.losses.sigreg import sigreg
from ssl_jax.losses.sinkhorn import sinkhorn
from ssl_jax.losses.smog import group_logits, update_groups
from ssl_jax.losses.smooth_l1 import smooth_l1
from ssl_jax.losses.supcon import supcon
from ssl_jax.losses.tico import tico
from ssl_jax.losses.triplet import batch_hard, semi_hard
from ssl_jax.losses.vat import divergence, entropy
from ssl_jax.losses.vicreg import covariance, invariance, variance, vicreg
from ssl_jax.losses.vicregl import matched_places, whole_views
from ssl_jax.losses.wmse import wmse
from ssl_jax.losses.zipf import posteriors, zipf_divergence
from tests.compiling import AS_USERS

LABELS = np.arange(8) % 5
INDEX = np.arange(8)
MASK = np.arange(32).reshape(8, 4) % 2
PAIRS = np.arange(32).reshape(2, 4, 4) % 3 == 0
HALF = np.zeros((8, 1, 2)) + np.array([0, 1])
AT = np.arange(64, dtype=np.float32).reshape(8, 4, 2) % 5
GREY = INDEX / 10.0
LARGE = 1000.0  # a logit of float16 networks that went wrong; in bfloat16 its neighbour is 1004


def picture(x):
    return x.reshape(8, 2, 4, 2)


def wide(x):
    """Return logits (1, 4, 2, 313) of colours, of which the first 16 are not 0."""
    return jnp.pad(x.reshape(1, 4, 2, 16), ((0, 0), (0, 0), (0, 0), (0, 297)))


def whole(x):
    return x.astype(jnp.float32)


def matched(x, y):
    """Return the places of y (8, 4, 4) that are most similar to those of x, as (8, 16)."""
    x, y = x.reshape(8, 4, 4), y.reshape(8, 4, 4)
    return jnp.take_along_axis(y, most_similar(x, y)[..., None], axis=1).reshape(8, 16)


def probabilities(x):
    return jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype)


# Functions of two (8, 16) arrays; t is a temperature, which divides unless it is what is divided.
CASES = {
    "align_uniform": lambda x, y, t: alignment(x, y) + uniformity(x, 1 / t),
    "barlow_twins": lambda x, y, t: barlow_twins(x, y),
    "clip": lambda x, y, t: clip_loss(x, y, 1 / t),
    "clip_inner": lambda x, y, t: clip_loss(x / 30, y, 1.0, normalize=False),
    "colorization": lambda x, y, t: colorization(
        wide(x), np.eye(313)[INDEX.reshape(1, 4, 2)], np.ones((1, 4, 2))
    ),
    "colorization_proxy": lambda x, y, t: hue_loss(x, probabilities(whole(y)), GREY),
    "colorization_proxy_chroma": lambda x, y, t: chroma_loss(x, probabilities(whole(y)), GREY),
    "counting": lambda x, y, t: counting(x, y.reshape(8, 2, 8).repeat(2, -1), y),
    "cpc": lambda x, y, t: cpc(x.reshape(4, 4, 2, 4), y.reshape(4, 4, 2, 4) / LARGE, 1),
    "cross_entropy": lambda x, y, t: cross_entropy(x, LABELS, 0.1),
    "soft_cross_entropy": lambda x, y, t: soft_cross_entropy(x, probabilities(y)),
    "cross_view": lambda x, y, t: mean_of_other_views(
        cross_entropies(probabilities(y).reshape(4, 2, 16), x.reshape(4, 2, 16))
    ),
    "dino": lambda x, y, t: soft_cross_entropy(x, teacher_probabilities(y, y[:1], t)),
    "debiased": lambda x, y, t: debiased(x, t),
    "decoupled": lambda x, y, t: decoupled(x, t, 0.5),
    "densecl": lambda x, y, t: infonce(x, matched(x, y), t),
    "discrete_codes": lambda x, y, t: uniform_divergence(x),
    "discrete_codes_sample": lambda x, y, t: jnp.square(gumbel_softmax(x, y.astype(float), 1.0)),
    "distillation": lambda x, y, t: distillation(x, y, 1.0),
    "feature_distillation": lambda x, y, t: feature_distillation(x, y),
    "flatnce": lambda x, y, t: flatnce(x, t),
    "gram": lambda x, y, t: gram(x.reshape(8, 4, 4), y.reshape(8, 4, 4)),
    "hard_negatives": lambda x, y, t: hard_negatives(x, t),
    "hog": lambda x, y, t: masked_mse(
        x.reshape(8, 4, 4), hog(y.reshape(8, 4, 4, 1), 2, 4).reshape(8, 4, 4), MASK
    ),
    "masked_patches": lambda x, y, t: masked_patch_loss(
        probabilities(y).reshape(8, 4, 4), x.reshape(8, 4, 4), MASK
    ),
    "patch_nce": lambda x, y, t: patch_nce(x.reshape(2, 4, 16), y.reshape(2, 4, 16), t),
    "infonce": lambda x, y, t: infonce(x, y, t),
    "infonce_queue": lambda x, y, t: infonce(x, y, t, negatives=y[::-1] / LARGE),
    "invaspread": lambda x, y, t: invaspread(x, t),
    "masked_cosine": lambda x, y, t: masked_cosine(x.reshape(8, 4, 4), y.reshape(8, 4, 4), MASK),
    "masked_mse": lambda x, y, t: masked_mse(
        x.reshape(8, 4, 4), normalize_patches(y.reshape(8, 4, 4)), MASK
    ),
    "koleo": lambda x, y, t: koleo(x),
    "layer_targets": lambda x, y, t: masked_smooth_l1(
        x.reshape(8, 4, 4), layer_targets(y.reshape(1, 8, 4, 4)), MASK, 2.0
    ),
    "smooth_l1": lambda x, y, t: smooth_l1(x, y),
    "masks": lambda x, y, t: mask_logistic(x, np.arange(128).reshape(8, 16) % 3),
    "multi_label": lambda x, y, t: sigmoid_cross_entropy(x, INDEX[:, None]),
    "multi_label_soft": lambda x, y, t: soft_sigmoid_cross_entropy(x, probabilities(y)),
    "multi_modal": lambda x, y, t: margin_contrast(x, y, y[::-1]) + feature_distance(y, x),
    "multi_modal_sum": lambda x, y, t: weighted_sum(
        binary(switched(x[:, 0], t), INDEX % 2), INDEX % 2
    ),
    "msn": lambda x, y, t: soft_cross_entropy(x, sharpened(y, t)) + log_mean_probability(x)[0],
    "nce": lambda x, y, t: nce(x, 1 / 40),
    "nearest_neighbor": lambda x, y, t: infonce(nearest_neighbor(x, x[:4]), y, t),
    "negative_cosine": lambda x, y, t: negative_cosine(x, y),
    "regression": lambda x, y, t: regression_loss(x, y),
    "nonparametric_softmax": lambda x, y, t: nonparametric_softmax(x, y, INDEX, 1.0),
    "ntxent": lambda x, y, t: ntxent(x, t),
    "ntxent_ring": lambda x, y, t: ntxent(x, t, similarity="tiled"),
    "pixel_pairs.pixel_consistency": lambda x, y, t: pixel_consistency(
        x.reshape(2, 4, 16), y.reshape(2, 4, 16), PAIRS
    ),
    "pixel_pairs.pixel_contrast": lambda x, y, t: pixel_contrast(
        x.reshape(2, 4, 16), y.reshape(2, 4, 16), PAIRS, t
    ),
    "pixel_pairs.pooled_pixel_contrast": lambda x, y, t: pooled_pixel_contrast(
        x.reshape(2, 4, 16), y.reshape(2, 4, 16), PAIRS, t
    ),
    "reconstruction": lambda x, y, t: squared_error(picture(x), picture(y)),
    "ressl": lambda x, y, t: ressl(x, y, y / LARGE, t, t / 2),
    "self_classifier": lambda x, y, t: self_classifier(x.reshape(4, 2, 16), 2, row_temperature=t),
    "siglip": lambda x, y, t: siglip(x, y, 1 / t, -10.0),
    "masked_l1": lambda x, y, t: masked_l1(picture(x), picture(y), HALF),
    "sigreg": lambda x, y, t: sigreg(jnp.stack([x, y], axis=1), jax.random.key(0), 16),
    "sinkhorn": lambda x, y, t: soft_cross_entropy(x, sinkhorn(y, t, 3)),
    "smog": lambda x, y, t: group_logits(x, update_groups(y[:5], x, LABELS, 0.5), t),
    "supcon": lambda x, y, t: supcon(x, LABELS, t),
    "tico": lambda x, y, t: tico(x, y, np.eye(16))[0],
    "triplet": lambda x, y, t: batch_hard(x, np.arange(8) // 2) + semi_hard(y, np.arange(8) // 2),
    "vat": lambda x, y, t: entropy(x) + divergence(x, y),
    "vicreg": lambda x, y, t: vicreg(x, y),
    "vicreg_parts": lambda x, y, t: invariance(x, y) + variance(x) + covariance(y),
    "vicregl": lambda x, y, t: sum(
        (
            *matched_places(x.reshape(8, 4, 4), y.reshape(8, 4, 4), AT, -AT, (2, 2)),
            *whole_views(x.reshape(8, 2, 8)),
        )
    ),
    "wmse": lambda x, y, t: wmse(x.reshape(32, 4), y.reshape(32, 4), 16),
    "zipf": lambda x, y, t: zipf_divergence(posteriors(x, y[:4], 4.0).mean(0)),
}
# Files of losses that hold no loss, or what others are made of.
PARTS = {"axes", "large_batch", "normalize", "pairs", "shapes"}


@cache
def results():
    """Loss and gradients of all cases, of bfloat16 and of the same in float32: two programs."""

    def total(case, x, y, temperature):
        return jnp.sum(CASES[case](x, y, temperature))

    gradients = {case: jax.value_and_grad(partial(total, case), argnums=(0, 1)) for case in CASES}
    run = jax.jit(lambda *a: {c: f(*a) for c, f in gradients.items()}, compiler_options=AS_USERS)
    draw, made = np.random.default_rng(0), []
    for size, temperature in itertools.product((1.0, LARGE), (0.2, 0.01)):
        x, y = (jnp.asarray(size * draw.normal(size=(8, 16)), jnp.bfloat16) for _ in range(2))
        made.append((run(x, y, temperature), run(*map(whole, (x, y)), temperature)))
    return made


class Bfloat16Test(parameterized.TestCase):
    @parameterized.parameters(*CASES)
    def test_is_the_loss_of_the_same_values_in_float32(self, case):
        for half, whole in results():
            self.compare(case, half[case], whole[case])
        rows = jax.ShapeDtypeStruct((8, 16), jnp.bfloat16)
        made = jax.eval_shape(CASES[case], rows, rows, 0.2)
        self.assertEqual(made.dtype, jnp.float32)

    def compare(self, case, result, expected):
        (half, gradients), (whole, whole_gradients) = result, expected
        self.assertTrue(np.isfinite(half), half)
        np.testing.assert_allclose(half, whole, rtol=self.rounded(case))
        for gradient, want in zip(gradients, whole_gradients, strict=True):
            gradient = np.asarray(gradient, np.float32)
            self.assertTrue(np.isfinite(gradient).all())
            largest = np.abs(want).max() or 1.0
            error = np.abs(gradient - want).max() / largest
            self.assertLess(error, 2**-7)  # the gradient itself is rounded to bfloat16

    def rounded(self, case):
        """Tolerance of a case that rounds values of its own to bfloat16 before the loss."""
        own = (
            "soft_cross_entropy",
            "cross_view",
            "masked_patches",
            "multi_label_soft",
            "dino",
            "clip_inner",
            "infonce_queue",
        )
        return 2e-2 if case in own else 1e-5

    def test_all_losses_are_here(self):
        files = {m.name for m in pkgutil.iter_modules(losses.__path__)} - PARTS
        named = set(inspect.getsource(import_module(__name__)).split())
        for name in files:
            self.assertIn(f"ssl_jax.losses.{name}", named)
            self.assertTrue(any(case.startswith(name) for case in CASES), name)


if __name__ == "__main__":
    absltest.main()
