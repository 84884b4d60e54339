from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
from absl.testing import absltest, parameterized

from ssl_jax import nets
from ssl_jax.cost import flops


def forward_macs(net, size):
    def forward(image):
        params, stats = net.init(jax.random.key(0))
        return net.apply(params, stats, image, train=False)[0].pooled

    return flops.count(forward, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)) // 2


class FlopsTest(parameterized.TestCase):
    @parameterized.parameters(
        # backbone, options, closed-form multiply-adds without the 1000-way head
        ("resnet", {"depth": 18}, 1_814_073_344 - 512_000),
        ("resnet", {"depth": 50}, 4_089_184_256 - 2_048_000),
        ("vit", {"size": "small", "patch": 16}, 4_598_882_304 - 384_000),
    )
    def test_forward_of_known_nets(self, name, options, macs):
        self.assertEqual(forward_macs(nets.make_backbone(name, 3, options), 224), macs)

    def test_loops_count_every_trip(self):
        def loop(x):
            return jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=7)[0]

        self.assertEqual(flops.count(loop, jnp.ones((4, 4))), 7 * 2 * 4**3)

    def test_backward_of_a_strided_convolution(self):
        """Each gradient costs what the forward pass does: zeros between strides are no work."""

        def conv(x, w):
            return jax.lax.conv_general_dilated(
                x, w, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ).sum()

        x, w = jnp.ones((1, 8, 8, 3)), jnp.ones((2, 2, 3, 5))
        forward = flops.count(conv, x, w)
        self.assertEqual(forward, 2 * 4 * 4 * 5 * (2 * 2 * 3))
        self.assertEqual(flops.count(jax.grad(conv, (0, 1)), x, w), 3 * forward)

    def test_the_fused_attention_of_cudnn(self):
        """Two products forward; backward four, and the logits again."""

        def loss(form, qkv):
            out = jax.nn.dot_product_attention(*qkv, implementation=form)
            return out.astype(jnp.float32).sum()

        qkv = [jnp.zeros((2, length, 4, 32), jnp.bfloat16) for length in (64, 48, 48)]
        cudnn = partial(loss, "cudnn")
        checks = "jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version"
        with mock.patch(checks, lambda: 91000):  # there is no cuDNN here
            fused = [flops.count(f, qkv) for f in (cudnn, jax.grad(cudnn))]
        products = flops.count(partial(loss, "xla"), qkv)
        self.assertEqual(products, 2 * 2 * (2 * 64 * 48 * 4 * 32))
        self.assertEqual(fused, [products, 7 * products // 2])

    def test_peaks(self):
        self.assertEqual(flops.peak("TPU v5 lite"), 197e12)
        self.assertEqual(flops.peak("NVIDIA H100 80GB HBM3"), 989e12)
        self.assertIsNone(flops.peak("cpu"))


if __name__ == "__main__":
    absltest.main()
