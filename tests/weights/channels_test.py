"""First layers for other channels: the stated rules, against what they promise of the outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.weights import channels, conversion, networks
from tests.weights.releases_test import CONVNEXT, EFFICIENTNET, RESNET, SWIN, VIT

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)
IMAGES = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)


def convolved(images, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout)


class ChannelsTest(parameterized.TestCase):
    @parameterized.parameters(
        ("repeat", 6, lambda x: jnp.concatenate([x, x], -1)),
        ("zero", 5, lambda x: jnp.concatenate([x, 9 * x[..., :2]], -1)),
    )
    def test_more_channels_give_what_the_first_ones_gave(self, rule, count, widened):
        kernel = channels.converted(KERNEL, count, rule)
        self.assertEqual(kernel.shape, (3, 3, count, 5))
        expected = convolved(IMAGES, KERNEL)
        np.testing.assert_allclose(convolved(widened(IMAGES), kernel), expected, atol=1e-5)

    @parameterized.parameters(1, 2, 4, 6)
    def test_the_mean_of_grey_images(self, count):
        grey = IMAGES[..., :1]
        expected = convolved(jnp.repeat(grey, 3, -1), KERNEL)
        kernel = channels.converted(KERNEL, count, "mean")
        out = convolved(jnp.repeat(grey, count, -1), kernel)
        np.testing.assert_allclose(out, expected, atol=1e-5)

    def test_fewer_channels_by_zero_are_those_that_stay(self):
        expected = convolved(IMAGES * np.float32([1, 1, 0]), KERNEL)
        out = convolved(IMAGES[..., :2], channels.converted(KERNEL, 2, "zero"))
        np.testing.assert_allclose(out, expected, atol=1e-5)

    def test_repeat_cuts_the_last_round(self):
        kernel = channels.converted(KERNEL, 4, "repeat")
        np.testing.assert_allclose(kernel, KERNEL[:, :, [0, 1, 2, 0]] * 0.75, rtol=1e-6)

    def test_refusals(self):
        with self.assertRaisesRegex(UserError, "repeat: 2 channels from 3 leave nothing to repeat"):
            channels.converted(KERNEL, 2, "repeat")
        with self.assertRaisesRegex(UserError, "unknown rule 'copy'; known: repeat, mean, zero"):
            channels.converted(KERNEL, 2, "copy")
        with self.assertRaisesRegex(
            UserError, "F is for images of 3 channels, the data have 6; se"
        ):
            channels.check("", 3, 6, "K", "F")
        with self.assertRaisesRegex(UserError, "K: 'mean' would change nothing: F and the data ha"):
            channels.check("mean", 3, 3, "K", "F")

    @parameterized.parameters(RESNET, VIT, SWIN, CONVNEXT, EFFICIENTNET)
    def test_the_first_layer_of_every_family_and_no_other(self, **backbone):
        rgb, six = (conversion.flat(*networks.shapes(networks.build(backbone, c))) for c in (3, 6))
        variables = {path: np.ones(leaf.shape, np.float32) for path, leaf in rgb.items()}
        like = {path: leaf.shape for path, leaf in six.items()}
        fitted = channels.fitted(variables, like, 3, 6, "mean")
        self.assertEqual({path: x.shape for path, x in fitted.items()}, like)
        self.assertLen([path for path in like if fitted[path] is not variables[path]], 1)


if __name__ == "__main__":
    absltest.main()
