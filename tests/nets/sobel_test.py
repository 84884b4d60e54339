"""Sobel gradients against DeepCluster's fixed layers, alone and in front of a backbone."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment import geometric
from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.sobel import sobel
from ssl_jax.weights import conversion, networks, timm
from tests.nets import weights as torch


class SobelTest(parameterized.TestCase):
    @parameterized.parameters(("deepcluster", 1), ("deepercluster", 2))
    def test_golden(self, release, margin):
        _, data = torch.load("deepcluster_sobel")
        ours = np.moveaxis(sobel(torch.nhwc(data["in_x"]), margin), -1, 1)
        torch.assert_close(ours, data[f"out_sobel_{release}"], 1e-6)

    def test_golden_rotations(self):
        """DeeperCluster's rotations of the image (`rotate_img` of src/data/loader.py)."""
        _, data = torch.load("deepcluster_sobel")
        image = data["in_img"]
        side = min(image.shape[:2])  # ours are of square images
        ours = geometric.rotations(jnp.asarray(image[:side, :side])[None])[0]
        for i, degrees in enumerate((0, 90, 180, 270)):
            theirs = data[f"out_rot{degrees}"]
            rows = slice(-side, None) if i in (1, 2) else slice(side)
            columns = slice(-side, None) if i in (2, 3) else slice(side)
            np.testing.assert_array_equal(ours[i], theirs[rows, columns], f"{degrees} degrees")

    def test_backbone_sees_gradients_only(self):
        net = resnet_small(4, sobel=True)
        plain = resnet_small(4, channels=2)
        params, stats = net.init(jax.random.key(0))
        images = torch.random_images(2, 8, 8, 3)
        out, _ = net.apply(params, stats, images, train=False)
        same, _ = plain.apply(params, stats, sobel(images), train=False)
        np.testing.assert_array_equal(out.pooled, same.pooled)
        two, _ = net.apply(params, stats, images, train=True, microbatches=2)
        self.assertEqual(two.pooled.shape, out.pooled.shape)
        tinted = images + jnp.array([0.5, -0.25, -0.25])  # of the same grey
        again, _ = net.apply(params, stats, tinted, train=False)
        np.testing.assert_allclose(again.pooled, out.pooled, rtol=1e-4, atol=1e-6)

    def test_timm_has_none(self):
        section = {"name": "resnet", "depth": 18, "num_filters": 4, "sobel": True}
        net = networks.build(section, 3)
        variables = conversion.flat(*torch.random_variables(net))
        with self.assertRaisesRegex(UserError, "sobel=True"):
            timm.export(variables, section, 3, "timm")


if __name__ == "__main__":
    absltest.main()
