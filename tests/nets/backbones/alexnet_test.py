"""AlexNet: the published maps of both widths, its layers by hand, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.alexnet import make
from ssl_jax.nets.functional import output_shapes

ROTNET = (64, 192, 384, 256, 256)


class AlexNetTest(parameterized.TestCase):
    @parameterized.parameters(
        (make(), 224, (55, 27, 13, 13, 13), (96, 256, 384, 384, 256)),
        (make(ROTNET), 224, (55, 27, 13, 13, 13), ROTNET),
        (make(), 64, (15, 7, 3, 3, 3), (96, 256, 384, 384, 256)),
        (make(stem="small"), 32, (32, 15, 7, 7, 7), (96, 256, 384, 384, 256)),
    )
    def test_published_sizes(self, net, side, sides, widths):
        stages = output_shapes(net, (side, side, 3), stages=True).stages
        self.assertEqual([s.name for s in stages], [f"conv{i}" for i in range(1, 6)])
        maps = [(n, n, width) for n, width in zip(sides, widths, strict=True)]
        self.assertEqual([s.map.shape for s in stages], maps)

    def test_parameters(self):
        """torchvision's convolutions of these widths have 2,469,696 parameters with their biases;
        each bias is the norm's scale and offset here.
        """
        params = jax.eval_shape(make(ROTNET).init, jax.random.key(0))[0]
        self.assertEqual(count(params), 2_469_696 + sum(ROTNET))

    def test_layers_by_hand(self):
        net = make((4, 5, 6, 6, 5))
        params, stats = jax.jit(net.init)(jax.random.key(0))
        images = jax.random.normal(jax.random.key(1), (2, 47, 39, 3))
        made = net.apply(params, stats, images, train=False, stages=True)[0]
        x = images
        for i, (stride, padding) in enumerate(((4, 2), (1, 2), (1, 1), (1, 1), (1, 1)), 1):
            if i in (2, 3):
                rows, columns = ((n - 3) // 2 + 1 for n in x.shape[1:3])
                windows = [
                    x[:, r : r + 2 * rows - 1 : 2, c : c + 2 * columns - 1 : 2]
                    for r in range(3)
                    for c in range(3)
                ]
                x = jnp.max(jnp.stack(windows), axis=0)
            layout = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(
                x,
                params[f"conv{i}"]["kernel"],
                (stride, stride),
                [(padding, padding)] * 2,
                dimension_numbers=layout,
            )
            x = jnp.maximum(x / np.sqrt(1 + 1e-5), 0)
            np.testing.assert_allclose(made.stages[i - 1].map, x, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(made.pooled, x.mean((1, 2)), rtol=1e-4, atol=1e-5)

    def test_user_errors(self):
        with self.assertRaisesRegex(UserError, r"backbone.widths: expected 5 widths, got 2"):
            make((4, 4))
        with self.assertRaisesRegex(UserError, "alexnet: images of 30 x 40 px are too small"):
            output_shapes(make(), (30, 40, 3))
        output_shapes(make(), (31, 31, 3))
        output_shapes(make(stem="small"), (7, 7, 3))
        with self.assertRaisesRegex(UserError, "alexnet: images of 6 x 7 px are too small"):
            output_shapes(make(stem="small"), (6, 7, 3))


if __name__ == "__main__":
    absltest.main()
