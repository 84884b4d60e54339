"""Networks side by side are one backbone."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones import resnet_small
from ssl_jax.nets.split import Split
from ssl_jax.optim.layers import multipliers

PART = resnet_small.Config(4)


class SplitTest(absltest.TestCase):
    def test_a_part_sees_its_channels_only(self):
        net = Split(PART, (1, 2)).net(3)

        @jax.jit
        def run(images):
            return net.apply(*net.init(jax.random.key(0)), images, train=False, stages=True)[0]

        images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
        whole, bright = run(images), run(images * np.array([1, 0, 0], np.float32))
        self.assertEqual(whole.pooled.shape, (2, 2 * 16))
        self.assertEqual([stage.map.shape[-1] for stage in whole.stages], [8, 16, 32])
        self.assertEqual(whole.names, ["stage1", "stage2", "stage3"])
        np.testing.assert_array_equal(whole.pooled[:, :16], bright.pooled[:, :16])
        self.assertGreater(float(jnp.abs(whole.pooled - bright.pooled)[:, 16:].max()), 1e-3)

    def test_layers_are_those_of_the_parts(self):
        params, _ = jax.eval_shape(Split(PART, (1, 2)).net(3).init, jax.random.key(0))
        own, _ = jax.eval_shape(PART.net(1).init, jax.random.key(0))
        rates = multipliers({"backbone": params}, 0.5, Split(PART, (1, 2)))
        for path, rate in multipliers({"backbone": own}, 0.5, PART).items():
            for part in ("part1", "part2"):
                self.assertEqual(rates[path.replace("backbone/", f"backbone/{part}/")], rate)

    def test_other_channels(self):
        with self.assertRaisesRegex(UserError, r"parts of \(1, 2\) channels need images of 3"):
            jax.eval_shape(Split(PART, (1, 2)).net(1).init, jax.random.key(0))


if __name__ == "__main__":
    absltest.main()
