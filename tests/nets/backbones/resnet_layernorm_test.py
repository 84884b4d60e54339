"""The residual network with layer norm: the sizes of both CPC networks, and no mixing of images."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree import count
from ssl_jax.nets.backbones.resnet_layernorm import make
from ssl_jax.nets.functional import output_shapes

NARROW = {"blocks": (1, 1), "filters": (8, 8), "widths": (16, 32), "stem": "small"}


class ResNetTest(parameterized.TestCase):
    def test_resnet_161(self):
        """CPC v2 states 305 million parameters, without saying of which parts."""
        net = make((3, 4, 46), (64, 128, 512), (256, 512, 4096))
        self.assertEqual(net.name, "resnet161_layernorm")
        parameters = count(jax.eval_shape(net.init, jax.random.key(0)))
        self.assertEqual(parameters, 303_642_176)

    def test_the_third_stage_of_resnet_101(self):
        shapes = output_shapes(make(), (64, 64, 3), stages=True)
        self.assertEqual([stage.map.shape[-1] for stage in shapes.stages], [256, 512, 1024])
        self.assertEqual(shapes.map.shape, (4, 4, 1024))

    def test_a_patch_is_embedded_by_itself(self):
        net = make(**NARROW)
        params, stats = net.init(jax.random.key(0))
        patches = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
        embed = jax.jit(lambda x: net.apply(params, stats, x, train=True)[0].pooled)
        first, second = embed(patches), embed(patches.at[1].add(1.0))
        np.testing.assert_array_equal(first[::2], second[::2])
        self.assertGreater(jnp.abs(first[1] - second[1]).max(), 1e-3)

    def test_bad_input(self):
        with self.assertRaisesRegex(UserError, "one number per stage, got blocks .1, 1., filters"):
            make((1, 1), (8, 8, 8), (16, 16))


if __name__ == "__main__":
    absltest.main()
