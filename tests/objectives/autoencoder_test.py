"""The autoencoder against the closed form, its corruptions and its errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.losses.reconstruction import bernoulli_error, squared_error
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.autoencoder import Autoencoder
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts.networks import Networks
from tests.nets.weights import GOLDEN, assert_close

SPEC = Spec(4, 100, 0, 10, 100)


class Closed(Autoencoder):
    """The networks and the corruption of the fixture."""

    data: dict

    def corrupt(self, keys, images):
        if self.corruption == "gaussian":
            return images + self.data["in_gauss_noise"], None
        mask = jnp.asarray(self.data["in_mask"], images.dtype)
        return images * (1 - mask), mask

    @property
    def networks(self):
        scale, shape = self.data["hp_weight_scale"], self.data["in_x"].shape

        def encode(params, stats, x, **options):
            code = jnp.tanh(scale * x.reshape(len(x), -1) @ params["W"].T + params["b"])
            return Features(pooled=code), stats

        def decode(params, stats, code, **options):
            return (code @ (scale * params["V"].T) + params["c"]).reshape(shape), stats

        return Networks({"backbone": Net(None, encode), "decoder": Net(None, decode)})


def closed(**hyper):
    with np.load(GOLDEN / "autoencoder.npz") as file:
        data = dict(file)
    unit = {"view": View(6, recipe="none")}
    made = Closed(resnet_small(4), replace(SPEC, channels=2), **(unit | hyper))
    object.__setattr__(made, "data", data)
    params = {
        "backbone": {"W": data["in_W"], "b": data["in_b"]},
        "decoder": {"V": data["in_V"], "c": data["in_c"]},
    }
    index = np.arange(len(data["in_x"]), dtype=np.int32)
    batch = {"views": (data["in_x"][:, None],), "index": index}
    loss = lambda p: made.loss(p, {"stats": {}}, batch, jax.random.key(0), 0)[0]  # noqa: E731
    return loss, params, data


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(
        ({}, "out_loss_mse"),
        ({"target": "corrupted"}, "out_loss_mse_corrupted_only"),
        ({"likelihood": "bernoulli"}, "out_loss_bce_logits"),
    )
    def test_loss(self, hyper, key):
        loss, params, data = closed(**hyper)
        assert_close(loss(params), data[key], 1e-5, key)

    def test_gradient(self):
        loss, params, data = closed()
        grads = jax.grad(loss)(jax.tree.map(jnp.asarray, params))
        assert_close(grads["backbone"]["W"], data["grad_W"], 1e-5, "W")
        assert_close(grads["decoder"]["V"], data["grad_V"], 1e-5, "V")
        # gustavla/self-supervision, autoencoder.py: 50 mean(.25 (x - y)^2).
        assert_close(12.5 * loss(params), data["out_loss_gustavla"], 1e-5)

    def test_losses_by_numpy(self):
        draw = np.random.default_rng(0)
        y, x = draw.normal(size=(2, 2, 3, 3, 2)).astype(np.float32)
        x = np.minimum(np.maximum(x, 0), 1)
        where = draw.integers(0, 2, (2, 3, 3, 1))
        p = 1 / (1 + np.exp(-y.astype(np.float64)))
        for loss, each in (
            (squared_error, (x - y) ** 2),
            (bernoulli_error, -x * np.log(p) - (1 - x) * np.log(1 - p)),
        ):
            assert_close(loss(y, x), each.mean(), 1e-5)
            assert_close(loss(y, x, where), (each * where).sum() / where.sum() / 2, 1e-5)
            self.assertEqual(loss(y, x, 0 * where), 0)
        self.assertTrue(np.isfinite(bernoulli_error(1e4 * y, x)))


class AutoencoderTest(parameterized.TestCase):
    def made(self, **hyper):
        view = View(16, recipe="normalize")
        return Autoencoder(resnet_small(4), SPEC, **({"view": view} | hyper))

    def corrupt(self, index=(0, 1, 2, 3), **hyper):
        keys = rng.per_example(jax.random.key(0), jnp.array(index))
        images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
        return images, *self.made(**hyper).corrupt(keys, images)

    def test_masking_hides_whole_pixels_with_the_probability_set(self):
        images, corrupted, mask = self.corrupt(ratio=0.3)
        self.assertEqual(mask.shape, (4, 16, 16, 1))
        np.testing.assert_array_equal(corrupted, np.where(mask, 0, images))
        self.assertAlmostEqual(mask.mean(), 0.3, delta=0.06)  # 1024 draws: 4 deviations

    def test_noise_has_the_deviation_set_and_depends_on_the_example_alone(self):
        images, corrupted, _ = self.corrupt(corruption="gaussian", noise=0.3)
        self.assertAlmostEqual(float((corrupted - images).std()), 0.3, delta=0.02)
        _, moved, _ = self.corrupt((1, 0, 2, 3), corruption="gaussian", noise=0.3)
        np.testing.assert_allclose(moved[0] - images[0], corrupted[1] - images[1], atol=1e-6)

    def test_the_plain_one_sees_the_image(self):
        images, corrupted, mask = self.corrupt(corruption="none")
        np.testing.assert_array_equal(images, corrupted)
        self.assertEqual(mask.sum(), 0)

    @parameterized.parameters((16,), ((16, 32),))
    def test_the_decoder_sees_the_code_alone(self, size):
        made = self.made(view=View(size))
        shapes = jax.eval_shape(made.decoder.init, jax.random.key(0))
        code = jax.ShapeDtypeStruct((2, made.feature_dim), jnp.float32)
        out = jax.eval_shape(lambda v, c: made.decoder.apply(*v, c, train=True)[0], shapes, code)
        self.assertEqual(out.shape, (2, *made.view.sides, 3))

    @parameterized.parameters(
        ({"target": "corrupted", "corruption": "gaussian"}, "needs corruption='masking'"),
        ({"likelihood": "bernoulli"}, "pixels in .0, 1."),
        ({"ratio": 0.0}, "ratio"),
        ({"noise": -1.0}, "noise"),
    )
    def test_user_errors(self, hyper, message):
        with self.assertRaisesRegex(UserError, message):
            self.made(**hyper)

    def test_a_view_that_the_decoder_cannot_reach(self):
        with self.assertRaisesRegex(UserError, "20 x 20 px is not 2.k times .* 3 x 3"):
            _ = self.made(view=View(20)).networks


if __name__ == "__main__":
    absltest.main()
