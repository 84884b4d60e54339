"""Exemplar-CNN: seeds that stay, transformations within their ranges, and its three losses."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.seeds import draw_seed
from ssl_jax.core.errors import UserError
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.triplet import batch_hard, semi_hard
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.exemplar_cnn import ExemplarCNN
from tests.losses.forms import load

RNG = np.random.default_rng(0)
STILL = {
    "seed_scale": 1.0,
    "translation": 0.0,
    "scale": (1.0, 1.0),
    "rotation": 0.0,
    "contrast": (1.0, 1.0),
    "power": (1.0, 1.0),
    "factor": (1.0, 1.0),
    "offset": 0.0,
    "hue": 0.0,
}


def exemplar(**hyper):
    small = {"view": View(12, area=(1, 1), recipe="none"), "patch": 8, "embedding": 6}
    return ExemplarCNN(resnet_small(4, stem="cifar"), Spec(4, 30, 0, 10, 100), **(small | hyper))


def images(count=4):
    return jnp.asarray(RNG.random((count, 12, 12, 3)), jnp.float32)


def batch_of(pictures):
    return {"views": (pictures[:, None],), "index": jnp.arange(len(pictures))}


class ExemplarTest(parameterized.TestCase):
    def test_without_ranges_all_copies_are_the_seed(self):
        made = exemplar(copies=3, **STILL)
        _, extra = made.init(jax.random.key(0))
        pictures = images()
        copies = made.exemplars(extra["seeds"], pictures, jnp.arange(4), jax.random.key(1))
        self.assertEqual(copies.shape, (4, 3, 8, 8, 3))
        np.testing.assert_allclose(copies, copies[:, :1].repeat(3, axis=1), atol=1e-5)
        windows = [pictures[0, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        self.assertLess(min(np.abs(copies[0, 0] - w).max() for w in windows), 1e-5)

    def test_the_set_of_transformations_is_fixed(self):
        """Seeds and their transformations depend on the state's key alone, not on the step's."""
        made = exemplar(transforms=2)
        _, extra = made.init(jax.random.key(0))
        pictures = images(3)

        @jax.jit
        def shown(key):
            return made.exemplars(extra["seeds"], pictures, jnp.arange(3), key)

        several = np.stack([shown(jax.random.key(k))[0] for k in range(12)])
        self.assertLen(np.unique(several.round(4), axis=0), 2)

    def test_the_seed_stays(self):
        image = images()[0]
        seed = lambda k: draw_seed(k, image, 8, 2.0)  # noqa: E731
        centres, sides = jax.vmap(seed)(jax.random.split(jax.random.key(0), 200))
        self.assertTrue(((centres - sides[:, None] / 2 > -1e-4) | (sides[:, None] > 12)).all())
        self.assertTrue((centres >= 4).all() and (centres <= 8).all())
        self.assertBetween(sides.min(), 8, 9)
        self.assertBetween(sides.max(), 15, 16)
        np.testing.assert_array_equal(seed(jax.random.key(3))[1], seed(jax.random.key(3))[1])

    def test_a_zero_head_has_the_loss_of_a_guess(self):
        made = exemplar()
        params, extra = made.init(jax.random.key(0))
        params["classifier"] = jax.tree.map(jnp.zeros_like, params["classifier"])
        batch = batch_of(images())
        loss, aux = made.loss(params, extra, batch, jax.random.key(1), jnp.int32(0))
        np.testing.assert_allclose(loss, math.log(30), rtol=1e-6)
        self.assertEqual(jax.tree.structure(aux.extra), jax.tree.structure(extra))

    @parameterized.parameters(
        ("batch_hard", "exemplar_batch_hard", "features", "out_soft_m0_loss", "grad_soft_m0_emb"),
        ("semi_hard", "exemplar_triplet_semihard", "features", "out_loss_axis1", "grad_emb_axis1"),
        ("semi_hard", "exemplar_triplet_semihard", "batch", "out_loss_axis0", "grad_emb_axis0"),
    )
    def test_triplets_of_the_released_codes(self, form, fixture, normalized, value, gradient):
        """The whole loss, of a network that answers with the fixture's embeddings."""
        data = load(fixture, False)
        labels, embeddings = data["in_labels"], jnp.asarray(data["in_emb"])
        copies = int(np.sum(labels == labels[0]))
        order = np.argsort(labels, kind="stable")
        width = embeddings.shape[1]

        def answer(params, stats, x, **_):
            return Features(pooled=params["emb"]), stats

        made = exemplar(form=form, copies=copies, normalized=normalized, embedding=width)
        made.__dict__["networks"] = made.networks.__class__(
            {
                "backbone": Net(lambda key: ({}, {}), answer),
                "classifier": Net(lambda key: ({}, {}), lambda p, s, x, **_: (x, s)),
            }
        )
        _, extra = exemplar().init(jax.random.key(0))
        extra = dict(extra, stats={"backbone": {}, "classifier": {}})
        params = {"backbone": {"emb": embeddings[order]}, "classifier": {}}
        batch = batch_of(images(len(labels) // copies))

        @jax.jit
        def run(params):
            return made.loss(params, extra, batch, jax.random.key(0), jnp.int32(0))[0]

        loss, slope = jax.value_and_grad(run)(params)
        np.testing.assert_allclose(loss, data[value], rtol=1e-5)
        theirs = data[
            value.replace("out_loss", "grad_emb").replace("out_soft_m0_loss", "grad_soft_m0_emb")
        ]
        np.testing.assert_allclose(slope["backbone"]["emb"], theirs[order], atol=1e-5)

    def test_the_same_embeddings_in_either_order(self):
        z = l2_normalize(jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32))
        labels, order = jnp.array([0, 0, 1, 1, 2, 2]), np.array([3, 1, 5, 0, 2, 4])
        for loss in (lambda z, y: jnp.mean(batch_hard(z, y)), semi_hard):
            np.testing.assert_allclose(loss(z, labels), loss(z[order], labels[order]), rtol=1e-5)

    @parameterized.parameters(
        ({"view": View(12, recipe="none")}, "expected one whole image"),
        ({"view": View(12, area=(1, 1), recipe="flip")}, "no change of the image"),
        ({"patch": 13}, "at most 12"),
        ({"form": "semi_hard"}, "at least 2 per image, got 1"),
        ({"scale": (2.0, 1.0)}, "objective.scale: expected a rising range"),
    )
    def test_user_errors(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            exemplar(**hyper)


if __name__ == "__main__":
    absltest.main()
