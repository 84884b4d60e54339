"""EfficientNet: published sizes, rounding of widths, padding, stages, refusals.
`tests/weights/timm_models_test.py` compares features with timm's.
"""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.efficientnet import Config, rounded
from ssl_jax.nets.backbones.efficientnet import make as efficientnet
from ssl_jax.nets.functional import output_shapes
from tests.nets import weights as torch

NARROW = {"depths": (1, 2), "widths": (8, 16)}


class EfficientNetTest(parameterized.TestCase):
    @parameterized.parameters(
        ("b0", 5_288_548 - 1_281_000),
        ("b3", 12_233_232 - 1_537_000),
        ("b4", 19_341_616 - 1_793_000),
    )
    def test_published_sizes(self, size, parameters):
        """Counts of ImageNet's classifiers, less the linear layer of 1000 classes."""
        net = efficientnet(size)
        self.assertEqual(count(jax.eval_shape(net.init, jax.random.key(0))[0]), parameters)

    def test_widths_are_multiples_of_8_of_at_least_90_percent(self):
        widths = {16 * 1.1: 16, 24 * 1.1: 24, 40 * 1.4: 56, 320 * 1.8: 576, 10.0: 16, 3.0: 8}
        self.assertEqual({width: rounded(width) for width in widths}, widths)
        for width in np.linspace(8, 400, 99):
            self.assertGreaterEqual(rounded(width), 0.9 * width)

    def test_stages(self):
        out = output_shapes(efficientnet(None, **NARROW), (32, 32, 3), stages=True)
        self.assertEqual(out.names, ["stage1", "stage2", "head"])
        shapes = [stage.map.shape for stage in out.stages]
        self.assertEqual(shapes, [(16, 16, 8), (8, 8, 16), (8, 8, 64)])
        self.assertEqual(out.pooled.shape, (64,))
        cifar = output_shapes(efficientnet(None, "cifar", **NARROW), (32, 32, 3))
        self.assertEqual(cifar.map.shape, (16, 16, 64))

    def test_paddings_differ_on_even_sides_only(self):
        """TensorFlow pads an even side by 1 at its end only, an odd one at both."""
        nets = [
            efficientnet(None, padding=p, depths=(1,), widths=(8,)) for p in ("symmetric", "same")
        ]
        params, stats = torch.random_variables(nets[0])
        for side, equal in ((9, True), (8, False)):
            images = torch.random_images(1, side, side, 3)
            run = lambda net: net.apply(params, stats, images, train=False)[0].map  # noqa: B023, E731
            one, other = (np.asarray(torch.jit(run, static_argnums=0)(net)) for net in nets)
            self.assertEqual(np.abs(one - other).max() < 1e-5, equal)

    @parameterized.parameters(
        ({"size": "b9"}, "no EfficientNet of size 'b9'; known: b0, b1"),
        ({"size": None, "widths": (8,)}, "size=None needs depths and widths"),
        (
            {"size": None, "depths": (1,), "widths": (8, 8)},
            "give a depth and a width for each of 1",
        ),
        ({"size": None, "depths": (1,) * 8, "widths": (8,) * 8}, "for each of 1 to 7 stages"),
    )
    def test_refusals(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            Config(**options)


if __name__ == "__main__":
    absltest.main()
