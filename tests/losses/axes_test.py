"""Every public function of `losses/` on the meshes of any project: Explicit axes, JAX's default,
and Auto ones, of any number and names, compiled or not, in a context (`jax.set_mesh`) or in none.
"""

import contextlib
import functools
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import losses

# What the losses are made of: arrays of one device, or of a `shard_map`.
INSIDE = (
    "axes",
    "pairs",
    "shapes",
    *(f"large_batch.{m}" for m in ("ring", "tiles", "sinkhorn_kernel", "sinkhorn_sweeps")),
)
FUNCTIONALS = {"vat.adversarial_direction", "vat.virtual_adversarial"}  # of a caller's function
B, D = 8, 8
RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def chances(*shape):
    e = np.exp(draw(*shape))
    return e / e.sum(-1, keepdims=True)


X, Y, LOGITS, LABELS = draw(B, D), draw(B, D), draw(B, D), RANDOM.integers(0, D, B)
MASK = np.arange(B * 4).reshape(B, 4) % 3 == 0
IMAGES, OTHERS, CELLS = draw(B, 4, 4, 3), draw(B, 4, 4, 3), MASK.reshape(B, 2, 2)
PATCHES = draw(B, 4, 12)
PAIRS = np.arange(B * 16).reshape(B, 4, 4) % 3 == 0

# module.function -> its arguments; the gradient is that of the first.
CASES = {
    "align_uniform.alignment": (X, Y),
    "align_uniform.uniformity": (X, 2.0, draw(16, D)),
    "barlow_twins.barlow_twins": (X, Y),
    "barlow_twins.cross_correlation": (X, Y),
    "clip.clip_loss": (X, Y, 10.0),
    "colorization.annealed_mean": (draw(B, 313),),
    "colorization.colorization": (draw(B, 2, 2, 313), chances(B, 2, 2, 313), chances(B, 2, 2)),
    "colorization.nearest_bin": (draw(B, 2),),
    "colorization.rebalancing": (chances(313),),
    "colorization.soft_encode": (draw(B, 2),),
    "colorization_proxy.chroma_loss": (LOGITS, chances(B, D), chances(B)),
    "colorization_proxy.histograms": (chances(B, 4, 4), np.ones((B, 3, 2), np.int32), 4, 3),
    "colorization_proxy.hue_loss": (LOGITS, chances(B, D), chances(B)),
    "colorization_proxy.mean_hue": (LOGITS,),
    "colorization_proxy.median_chroma": (LOGITS,),
    "counting.counting": (X, draw(B, 4, D), Y),
    "cpc.cpc": (draw(B, 3, 2, D), draw(B, 3, 2, D), 1),
    "cross_entropy.cross_entropy": (LOGITS, LABELS, 0.1),
    "cross_entropy.divergence": (LOGITS, chances(B, D)),
    "cross_entropy.labelled_mean": (draw(B), LABELS - 1),
    "cross_entropy.soft_cross_entropy": (LOGITS, chances(B, D)),
    "cross_view.cross_entropies": (chances(B, 2, D), draw(B, 3, D)),
    "cross_view.mean_of_other_views": (draw(B, D),),
    "debiased.corrected": (draw(B), draw(B) + 4, 6, 0.5, 0.1),
    "debiased.debiased": (X, 0.5),
    "decoupled.decoupled": (X, 0.5, 0.5),
    "dino.balanced_probabilities": (PATCHES, 0.1, 3),
    "dino.teacher_probabilities": (LOGITS, draw(D), 0.1),
    "feature_distillation.feature_distillation": (X, Y),
    "feature_distillation.whiten": (X,),
    "densecl.most_similar": (PATCHES, draw(B, 5, 12)),
    "distillation.distillation": (LOGITS, draw(B, D), 2.0),
    "flatnce.flatnce": (X, 0.5),
    "gram.gram": (PATCHES, draw(B, 4, 5)),
    "hard_negatives.hard_negatives": (X, 0.5),
    "hog.hog": (IMAGES, 2),
    "hog.sobel": (IMAGES,),
    "infonce.infonce": (X, Y, 0.1, draw(16, D)),
    "invaspread.invaspread": (X, 0.5),
    "masked.masked_cosine": (PATCHES, draw(B, 4, 12), MASK),
    "discrete_codes.code_usage": (LABELS, D),
    "discrete_codes.gumbel_softmax": (LOGITS, draw(B, D), 0.5),
    "discrete_codes.uniform_divergence": (LOGITS,),
    "masks.mask_logistic": (LOGITS, RANDOM.integers(-1, 2, (B, D))),
    "masked.masked_l1": (IMAGES, OTHERS, CELLS),
    "masked.masked_mse": (PATCHES, draw(B, 4, 12), MASK),
    "koleo.koleo": (X,),
    "layer_targets.layer_targets": (draw(2, B, 4, D), "batch", "instance"),
    "masked.masked_patch_loss": (chances(B, 4, D), draw(B, 4, D), MASK),
    "masked.masked_smooth_l1": (PATCHES, draw(B, 4, 12), MASK, 0.5),
    "masked.masked_token_l1": (PATCHES, draw(B, 4, 12), MASK),
    "masked.normalize_patches": (PATCHES,),
    "multi_modal.binary": (LOGITS[:, 0], LABELS % 2),
    "multi_modal.feature_distance": (X, Y),
    "multi_modal.margin_contrast": (X, Y, draw(B, D)),
    "multi_modal.switched": (X, chances(B)),
    "multi_modal.weighted_sum": (draw(3), chances(3)),
    "multi_label.sigmoid_cross_entropy": (LOGITS, RANDOM.integers(-1, D, (B, 3))),
    "msn.log_mean_probability": (LOGITS,),
    "msn.sharpened": (LOGITS, 0.5, 3),
    "nce.estimate_partition": (X, 10),
    "nce.nce": (np.log(chances(B, D)), 0.1),
    "nearest_neighbor.nearest": (X, draw(16, D)),
    "nearest_neighbor.nearest_neighbor": (X, draw(16, D)),
    "negative_cosine.negative_cosine": (X, Y),
    "negative_cosine.regression_loss": (X, Y),
    "nonparametric_softmax.nonparametric_softmax": (
        X,
        draw(16, D),
        LABELS,
        0.1,
        np.arange(16) < 15,
    ),
    "normalize.as_float": (X,),
    "normalize.l2_normalize": (X,),
    "normalize.standardize": (X, 0),
    "ntxent.ntxent": (X, 0.1),
    "pixel_pairs.pixel_consistency": (PATCHES, draw(B, 4, 12), PAIRS),
    "pixel_pairs.pixel_contrast": (PATCHES, draw(B, 4, 12), PAIRS, 0.3),
    "pixel_pairs.pooled_pixel_contrast": (PATCHES, draw(B, 4, 12), PAIRS, 0.3),
    "ressl.ressl": (X, Y, draw(16, D) / 3),
    "self_classifier.self_classifier": (draw(B, 3, D), 2),
    "siglip.siglip": (X, Y, 10.0, -10.0),
    "large_batch.similarity.log_sum_exp": (X, Y),
    "large_batch.similarity.sum_complements": (-np.abs(X), np.abs(Y)),
    "large_batch.similarity.sum_softplus": (X, Y),
    "sigreg.epps_pulley": (X,),
    "sigreg.sigreg": (draw(B, 2, D), jax.random.key(0), 16),
    "sinkhorn.sinkhorn": (X, 0.5, 3),
    "smooth_l1.smooth_l1": (X, Y, 0.5),
    "smog.group_logits": (X, draw(4, D), 0.5),
    "smog.nearest_group": (X, draw(4, D)),
    "smog.update_groups": (draw(4, D), X, LABELS // 2, 0.9),
    "patch_nce.patch_nce": (PATCHES, draw(B, 4, 12), 0.5),
    "reconstruction.bernoulli_error": (IMAGES, chances(B, 4, 4, 3)),
    "reconstruction.logit_laplace_error": (draw(B, 4, 4, 6), chances(B, 4, 4, 3)),
    "reconstruction.squared_error": (IMAGES, OTHERS),
    "supcon.supcon": (X, LABELS // 2, 0.5),
    "tico.tico": (X, Y, np.eye(D, dtype=np.float32)),
    "triplet.cosine_triplet": (X, Y, LOGITS),
    "triplet.batch_hard": (X, np.arange(B) // 2),
    "triplet.semi_hard": (X, np.arange(B) // 2),
    "vat.divergence": (LOGITS, draw(B, D)),
    "vat.entropy": (LOGITS,),
    "vat.unit": (IMAGES,),
    "vicreg.covariance": (X,),
    "vicreg.invariance": (X, Y),
    "vicreg.variance": (X,),
    "vicreg.vicreg": (X, Y),
    "vicregl.matched_places": (PATCHES, draw(B, 5, 12), draw(B, 4, 2), draw(B, 5, 2), (3, 2)),
    "vicregl.nearest_places": (draw(B, 4, 5), 3),
    "vicregl.whole_views": (draw(B, 3, D),),
    "zipf.posteriors": (X, draw(4, D), 0.5),
    "zipf.zipf_divergence": (chances(D),),
    "zipf.zipf_prior": (chances(D), 1.5),
    "wmse.whiten": (draw(24, D),),
    "wmse.wmse": (draw(32, D), draw(32, D), 16),
    "multi_label.soft_sigmoid_cross_entropy": (LOGITS, chances(B, D)),
}
OPTIONS = {  # the forms that no argument of a case chooses
    "infonce.infonce": [{"similarity": "tiled"}, {"similarity": "ring"}],
    "koleo.koleo": [{"groups": 2}],
    "nearest_neighbor.nearest": [{"others": True}],
    "ntxent.ntxent": [{"similarity": "ring"}],
    "siglip.siglip": [{"similarity": "ring"}],
    "supcon.supcon": [{"mean": "in", "similarity": "ring"}],
    "invaspread.invaspread": [{"similarity": "ring"}],
    "large_batch.similarity.log_sum_exp": [{"columns": True, "similarity": "ring"}],
    "sinkhorn.sinkhorn": [{"form": "log", "valid": np.arange(B) < 7}],
}
ONE, TWO = ((4,), ("batch",)), ((2, 2), ("hosts", "chips"))
PLACES = (  # mesh, in context, gradients
    (ONE, AxisType.Explicit, True, True),
    (TWO, AxisType.Explicit, False, True),
    (TWO, AxisType.Auto, False, False),
)


def public():
    for module in pkgutil.walk_packages(losses.__path__, f"{losses.__name__}."):
        short = module.name.removeprefix(f"{losses.__name__}.")
        if short not in INSIDE:
            loaded = importlib.import_module(module.name)
            for name, function in inspect.getmembers(loaded, inspect.isfunction):
                if function.__module__ == loaded.__name__ and not name.startswith("_"):
                    yield f"{short}.{name}"


def on_mesh(shape, kind):
    sizes, names = shape
    mesh = jax.make_mesh(sizes, names, (kind,) * len(names), devices=jax.devices()[:4])

    def place(value):
        rows = P(names) if len(value) % mesh.size == 0 else P()
        return jax.device_put(value, NamedSharding(mesh, rows))

    return mesh, place


def call(case, options, args):
    module, _, name = case.rpartition(".")
    return getattr(importlib.import_module(f"ssl_jax.losses.{module}"), name)(*args, **options)


def everything(place, gradients):
    """(case, number of its options) -> its result and, with `gradients`, their gradient."""
    runs = [(case, i, o) for case in CASES for i, o in enumerate([{}, *OPTIONS.get(case, ())])]

    def results(arrays):
        out = {}
        for case, i, options in runs:
            args = [arrays.get((case, n), value) for n, value in enumerate(CASES[case])]

            def total(first, case=case, options=options, args=args):
                made = call(case, options, [first, *args[1:]])
                # Its slope is another one for every element, and insensitive to the rounding of
                # large values: colours reach 110.
                return sum(jnp.sum(jnp.sqrt(1 + x * x)) for x in jax.tree.leaves(made)), made

            if gradients and jnp.issubdtype(args[0].dtype, jnp.floating):
                (_, made), gradient = jax.value_and_grad(total, has_aux=True)(args[0])
                out[case, i] = (made, gradient)
            else:
                out[case, i] = (call(case, options, args),)
        return out

    arrays = {
        (case, n): place(value)
        for case, args in CASES.items()
        for n, value in enumerate(args)
        if isinstance(value, np.ndarray)
    }
    return jax.jit(results)(arrays)


@functools.cache
def expected():
    return everything(lambda value: value, gradients=True)


class AxesTest(parameterized.TestCase):
    def test_every_loss_has_a_case(self):
        self.assertSameElements({*CASES, *FUNCTIONALS}, public())

    @parameterized.parameters(*PLACES)
    def test_values_and_gradients_are_those_of_one_device(self, shape, kind, in_context, gradients):
        mesh, place = on_mesh(shape, kind)
        with jax.set_mesh(mesh) if in_context else contextlib.nullcontext():
            actual = everything(place, gradients)
        for run, results in actual.items():
            right = expected()[run][: len(results)]
            for a, b in zip(jax.tree.leaves(results), jax.tree.leaves(right), strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=str(run))

    @parameterized.parameters("ntxent.ntxent", "sinkhorn.sinkhorn", "masked.normalize_patches")
    def test_without_jit_and_without_a_context(self, case):
        _, place = on_mesh(TWO, AxisType.Explicit)
        first, *rest = CASES[case]
        actual = call(case, {}, [place(first), *rest])
        np.testing.assert_allclose(actual, expected()[case, 0][0], rtol=2e-5, atol=2e-6)

    def test_the_result_lies_as_the_first_argument(self):
        mesh, place = on_mesh(TWO, AxisType.Explicit)
        with jax.set_mesh(mesh):
            rows = call("clip.clip_loss", {}, [place(X), place(Y), 10.0])
        self.assertEqual(jax.typeof(rows).sharding.spec, P(TWO[1]))


if __name__ == "__main__":
    absltest.main()
