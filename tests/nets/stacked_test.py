"""Networks side by side compute what each of them computes alone."""

import jax
import numpy as np
from absl.testing import absltest

from ssl_jax.nets.heads import mlp_head
from ssl_jax.nets.stacked import stacked


class StackedTest(absltest.TestCase):
    def test_every_network_has_weights_of_its_own(self):
        one = mlp_head(4, (6, 3))
        net = stacked(one, 2)
        x = np.random.default_rng(0).normal(size=(5, 2, 7, 4)).astype(np.float32)

        @jax.jit
        def run(x):
            params, stats = net.init(jax.random.key(0))
            whole = net.apply(params, stats, x, train=True)
            part = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: E731
            alone = [
                one.apply(part(params, i), part(stats, i), x[:, i], train=True) for i in (0, 1)
            ]
            return whole, alone

        (out, stats), alone = run(x)
        self.assertEqual(out.shape, (5, 2, 7, 3))
        for i, (single, own) in enumerate(alone):
            np.testing.assert_allclose(out[:, i], single, rtol=1e-5, atol=1e-6)
            for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(own), strict=True):
                np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)
        self.assertGreater(np.abs(out[:, 0] - out[:, 1]).max(), 0.1)


if __name__ == "__main__":
    absltest.main()
