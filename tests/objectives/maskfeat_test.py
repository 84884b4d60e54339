"""MaskFeat against the release: labels and loss; what the network sees; errors."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.losses.masked import masked_mse
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.maskfeat import MaskFeat
from ssl_jax.objectives.parts.pictures import orientations
from tests.nets import weights as torch

SPEC = Spec(4, 100, 0, 10, 100)


def maskfeat(net=None, **hyper):
    net = net or vit(None, 4, 16, dim=8, depth=1, heads=2, mask_token=True)
    return MaskFeat(net, SPEC, **({"view": View(16), "min_patches": 2, "cell": 2} | hyper))


class GoldenTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        _, self.data = torch.load("maskfeat_hog")
        size, rows = self.data["in_x"].shape[-1], self.data["in_mask"].shape[1]
        net = vit(None, size // rows, size, dim=8, depth=1, heads=2, mask_token=True)
        self.made = maskfeat(net, view=View(size), min_patches=1, cell=8)
        self.targets = self.made.targets(torch.nhwc(self.data["in_x"]))

    def test_targets(self):
        """The release has the row and column of a cell after channel and bin."""
        cells, values = self.made.cells, self.targets.shape[-1]
        order = np.arange(values).reshape(cells**2, -1).T.ravel()
        hidden = self.targets[self.data["out_mask_flat"]][:, order]
        torch.assert_close(hidden, self.data["out_hog_labels"], 1e-5)

    def test_loss(self):
        mask, shape = self.data["out_mask_flat"], self.targets.shape
        order = np.arange(shape[-1]).reshape(-1, self.made.cells**2).T.ravel()
        prediction, slope = np.zeros((2, *shape), np.float32)
        prediction[mask] = self.data["in_pred"][:, order]
        slope[mask] = self.data["grad_pred"][:, order]
        value, gradient = jax.value_and_grad(masked_mse)(prediction, self.targets, mask)
        torch.assert_close(value, self.data["out_loss"], 1e-5)
        torch.assert_close(gradient, slope, 1e-4)

    def test_published_sizes(self):
        net = vit("base", 16, mask_token=True)
        made = MaskFeat(net, SPEC)
        self.assertEqual(made.networks.nets["head"].name, "mlp_768_108")
        masks = made.masks(jax.random.split(jax.random.key(0), 64))
        self.assertBetween(int(masks.sum((1, 2)).max()), 70, 78)  # of 196


class PropertiesTest(parameterized.TestCase):
    def test_hidden_pixels_reach_the_targets_only(self):
        made = maskfeat()
        params, extra = made.init(jax.random.key(0))
        mask = made.masks(jax.random.split(jax.random.key(1), 2))
        images = jax.random.normal(jax.random.key(2), (2, 16, 16, 3))
        noise = jax.random.normal(jax.random.key(3), images.shape)
        other = jnp.where(mask.repeat(4, 1).repeat(4, 2)[..., None], noise, images)
        nets = made.networks.bind(params, extra["stats"])
        predictions = [made.predict(nets, made.encode(nets, x, mask)) for x in (images, other)]
        np.testing.assert_array_equal(*predictions)
        self.assertEqual(predictions[0].shape, made.targets(images).shape)
        self.assertGreater(np.abs(made.targets(images) - made.targets(other)).max(), 0.1)

    @parameterized.parameters(True, False)
    def test_a_line_is_drawn_along_the_edge(self, downwards):
        """Brightness that rises downwards has a horizontal edge."""
        histograms = np.zeros((1, 1, 1, 18), np.float32)
        histograms[..., 0 if downwards else 8] = 1
        glyph = np.asarray(orientations(histograms, 18, 9)[0, :, :, 0])
        along, across = glyph[4], glyph[:, 4]
        if not downwards:
            along, across = across, along
        self.assertGreater(along.min(), 0.5)
        self.assertLess(np.count_nonzero(across), 4)


class ErrorsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({"cell": 3}, "cell: cells of 3 px do not tile a patch of 4 px"),
        ({"min_patches": 7}, "min_patches: 7 patches per block are more than the 6 to hide"),
        ({"net": resnet_small(8)}, "no patches"),
        ({"bins": 0}, "bins"),
    )
    def test_user_errors(self, options, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            maskfeat(**options).init(jax.random.key(0))
        self.assertNotIn("\n", str(caught.exception))


if __name__ == "__main__":
    absltest.main()
