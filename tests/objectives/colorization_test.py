"""Colorization against the released layers, from sRGB to the gradient; its pass; its errors."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.color import from_rgb, to_rgb
from ssl_jax.core.errors import UserError
from ssl_jax.losses.colorization import BINS, annealed_mean, rebalancing, soft_encode
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import DataPass, Spec, View
from ssl_jax.objectives.colorization import Colorization, make
from ssl_jax.objectives.parts import color_space
from ssl_jax.objectives.parts.networks import Networks
from tests.nets.weights import GOLDEN, assert_close, nhwc

SPEC = Spec(4, 100, 0, 10, 100)
VIEW = View(16, recipe="lab")


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


class Logits(Colorization):
    """A network whose parameters are the logits of each pixel."""

    @property
    def networks(self):
        look = lambda params, stats, images, **options: (Features(pooled=images, map=images), stats)  # noqa: E731
        answer = lambda params, stats, features, **options: (params, stats)  # noqa: E731
        return Networks({"backbone": Net(None, look), "decoder": Net(None, answer)})


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(5, 10)
    def test_from_rgb_to_the_gradient(self, neighbours):
        data, key = load("colorization_full"), f"k{neighbours}"
        made = Logits(resnet_small(4), SPEC, view=VIEW, neighbours=neighbours)
        # The file has no prior: the weights of the bins that its colours hit.
        boost, bins = data[f"out_{key}_boost"][:, 0], nhwc(data[f"out_{key}_encoded"]).argmax(-1)
        weights = np.ones(313, np.float32)
        weights[bins] = boost
        with jax.enable_x64(True):
            rgb = nhwc(data["in_rgb_uint8"]) / 255
            images = color_space.normalize(VIEW, from_rgb("lab", jnp.asarray(rgb)))
            np.testing.assert_allclose(
                color_space.units(VIEW, images), nhwc(data["f64_out_lab"]), atol=1e-9
            )
            np.testing.assert_allclose(made.colours(images), nhwc(data["out_ab_ss"]), atol=1e-5)
            batch = {"views": (images[:, None],), "index": jnp.arange(len(images))}
            params = {"backbone": {}, "decoder": jnp.asarray(nhwc(data[f"in_logits_{key}"]))}
            loss = lambda p: made.loss(  # noqa: E731
                p, {"stats": {}, "weights": weights}, batch, jax.random.key(0), jnp.int32(0)
            )
            (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params)
        assert_close(value, data[f"out_{key}_loss_kl_sum_over_batch"], 1e-5)
        assert_close(grads["decoder"], nhwc(data[f"grad_{key}_logits_weighted"]), 1e-5)
        self.assertFalse(grads["decoder"][-1].any())  # a grey image trains nothing

    def test_colours_of_a_prediction(self):
        data = load("colorization_decode")
        ab = annealed_mean(nhwc(data["in_logits"]), 0.38)
        lightness = nhwc(data["in_L"])
        ab = jax.image.resize(ab, (*lightness.shape[:3], 2), "bilinear")
        np.testing.assert_allclose(ab, nhwc(data["out_ab_up4"]), atol=1e-4)
        rgb = to_rgb("lab", jnp.concatenate([lightness, ab], axis=-1))
        # scikit-image sets a negative Z to 0, colours that no light has.
        real = (lightness + 16) / 116 >= ab[..., 1:] / 200
        self.assertGreater(real.mean(), 0.9)
        expected = np.where(real, data["out_rgb_T038"], 0)
        np.testing.assert_allclose(
            np.where(real, np.minimum(np.maximum(rgb, 0), 1), 0), expected, atol=1e-4
        )


class ColorizationTest(parameterized.TestCase):
    def made(self, **hyper):
        return make(resnet_small(4), SPEC, **({"view": VIEW, "width": 8} | hyper))

    @parameterized.parameters("upsample", "linear")
    def test_colours_do_not_reach_the_network(self, decoder):
        made = self.made(decoder=decoder)
        params, stats = made.networks.init(jax.random.key(0))
        nets = made.networks.bind(params, stats, train=False)
        images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
        other = images.copy()
        other[..., 1:] += 1
        logits = [nets.decoder(nets.backbone(x).map) for x in (images, other)]
        np.testing.assert_array_equal(*logits)
        self.assertEqual(logits[0].shape[-1], len(BINS))

    def test_the_pass_measures_the_prior(self):
        made = self.made()
        images = np.random.default_rng(0).normal(0, 0.3, size=(3, 16, 16, 3)).astype(np.float32)
        values = made.record({}, {}, jnp.asarray(images))
        np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-5)
        # The pass has rows of zeros where there is no image.
        padded = DataPass(jnp.pad(values, ((0, 5), (0, 0))), jnp.arange(8) < 3)
        extra = {"weights": jnp.ones(313), "stats": {}}
        _, extra = made.refresh({}, extra, padded, jax.random.key(0), jnp.int32(0))
        frequency = soft_encode(images[:, ::4, ::4, 1:] * 110).reshape(-1, 313).mean(0)
        np.testing.assert_allclose(extra["weights"], rebalancing(frequency), rtol=1e-4)
        self.assertIn(0, made.refresh_steps())
        self.assertLen(made.refresh_steps(), 1)

    def test_user_errors(self):
        with self.assertRaisesRegex(UserError, "predicts colours, and the data have 1 channel"):
            make(resnet_small(4, channels=1), replace(SPEC, channels=1), view=VIEW)
        with self.assertRaisesRegex(UserError, "space is 'lab', and that of 'flip' is 'rgb'"):
            self.made(view=View(16, recipe="flip"))
        with self.assertRaisesRegex(UserError, "sigma"):
            self.made(sigma=0.0)


if __name__ == "__main__":
    absltest.main()
