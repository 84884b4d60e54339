"""ConvNeXt: published sizes, layers, global response norm, images that are too small, refusals.
`tests/weights/timm_models_test.py` compares features with timm's.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.convnext import Config, GlobalResponseNorm
from ssl_jax.nets.backbones.convnext import make as convnext
from ssl_jax.nets.functional import output_shapes
from tests.nets import weights as torch

NARROW = {"depths": (2, 1), "dims": (8, 16)}


class ConvNeXtTest(parameterized.TestCase):
    @parameterized.parameters(
        ("tiny", {}, 28_589_128 - 769_000),
        ("base", {}, 88_591_464 - 1_025_000),
        ("atto", {"grn": True}, 3_708_400 - 321_000),
    )
    def test_published_sizes(self, size, options, parameters):
        """Counts of ImageNet's classifiers, less the linear layer of 1000 classes."""
        net = convnext(size, **options)
        self.assertEqual(count(jax.eval_shape(net.init, jax.random.key(0))[0]), parameters)

    def test_layers_are_groups_of_three_blocks(self):
        """The authors divide ConvNeXt-B into twelve layers, halving with the stage after it."""
        config = Config("base")
        self.assertEqual(config.num_layers, 12)
        layers = {
            "stem/conv/kernel": 0,
            "stage1/blocks/2/gamma": 1,
            "stage2/halving/norm/scale": 2,
            "stage3/halving/conv/kernel": 3,
            "stage3/blocks/2/fc1/kernel": 3,
            "stage3/blocks/26/fc1/kernel": 11,
            "stage4/halving/conv/kernel": 12,
            "stage4/blocks/0/conv/bias": 12,
            "norm/scale": 13,
        }
        self.assertEqual({path: config.layer_ids(path) for path in layers}, layers)

    def test_global_response_norm(self):
        """Equations 1 to 3 of V2, and a channel that is 0 everywhere has a finite gradient."""
        norm = GlobalResponseNorm(4)
        norm.scale.set_value(jnp.asarray([1.0, 2.0, 3.0, 4.0]))
        x = torch.random_images(2, 3, 3, 4)
        x[..., 3] = 0
        norms = np.sqrt((x**2).sum((1, 2), keepdims=True))
        expected = x + np.arange(1, 5) * x * norms / (norms.mean(-1, keepdims=True) + 1e-6)
        np.testing.assert_allclose(norm(x), expected, rtol=1e-5, atol=1e-6)
        gradient = jax.grad(lambda x: jnp.sum(norm(x) ** 2))(jnp.asarray(x))
        self.assertTrue(np.isfinite(gradient).all())

    def test_a_dropped_branch(self):
        net = convnext(None, drop_path=0.9, **NARROW)
        params, _ = torch.random_variables(net)
        images = torch.random_images(1, 16, 16, 3).repeat(16, 0)
        keys = jax.random.split(jax.random.key(0), 16)
        run = torch.jit(lambda **keys: net.apply(params, {}, images, train=True, **keys)[0].pooled)
        rows = np.asarray(run(keys=keys))
        self.assertGreater(len(np.unique(rows.round(4), axis=0)), 1)
        with self.assertRaisesRegex(UserError, "this method draws no stochastic depth"):
            run()

    def test_small_images(self):
        net = convnext("atto")
        with self.assertRaisesRegex(
            UserError, "convnext_atto: images of 16 x 16 px; expected at l"
        ):
            output_shapes(net, (16, 16, 3))
        self.assertEqual((net.config.side(16), net.config.side(50)), (32, 50))
        self.assertEqual(
            output_shapes(convnext("atto", patch=2), (16, 16, 3)).map.shape[:2], (1, 1)
        )

    @parameterized.parameters(
        ({"size": "tinny"}, "no ConvNeXt of size 'tinny'; did you mean 'tiny'"),
        ({"size": None, "dims": (8,)}, "size=None needs depths and dims"),
        ({"size": None, "depths": (1,), "dims": (8, 8)}, "give a depth and a width per stage"),
        ({"grn": True, "layer_scale": 0.1}, "layer_scale: 0.1 has no effect with grn"),
    )
    def test_refusals(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            Config(**options)


if __name__ == "__main__":
    absltest.main()
