"""Targets and predictions across views: closed forms. SwAV's, DINO's and iBOT's golden values are
in their own tests.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.cross_view import cross_entropies, mean_of_other_views


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class CrossViewTest(parameterized.TestCase):
    def test_every_pair(self):
        targets, logits = jax.nn.softmax(draw(5, 2, 7)), 3 * draw(5, 4, 7, seed=1)
        entropies = cross_entropies(targets, logits)
        self.assertEqual(entropies.shape, (2, 4))
        for g in range(2):
            for v in range(4):
                rows = -jnp.sum(targets[:, g] * jax.nn.log_softmax(logits[:, v]), axis=-1)
                np.testing.assert_allclose(entropies[g, v], rows.mean(), rtol=1e-5)

    @parameterized.parameters((2, 2), (2, 8), (1, 2), (3, 3))
    def test_mean_leaves_the_own_view_out(self, views, others):
        matrix = draw(views, others)
        pairs = [matrix[g, v] for g in range(views) for v in range(others) if g != v]
        np.testing.assert_allclose(mean_of_other_views(matrix), np.mean(pairs), rtol=1e-5)
        moved = matrix.at[0, 0].add(100.0)
        np.testing.assert_array_equal(mean_of_other_views(moved), mean_of_other_views(matrix))

    @parameterized.parameters(10, 3000, 65536)
    def test_constant_logits_give_log_k(self, k):
        targets = jax.nn.softmax(draw(2, 2, k))
        loss = mean_of_other_views(cross_entropies(targets, jnp.full((2, 3, k), 5.0)))
        np.testing.assert_allclose(loss, np.log(k), rtol=1e-5)

    def test_not_below_the_entropy_of_the_targets(self):
        targets = jax.nn.softmax(draw(6, 2, 9))
        entropy = -jnp.mean(jnp.sum(targets * jnp.log(targets), -1), 0)
        bound = cross_entropies(targets, draw(6, 5, 9, seed=2))
        self.assertTrue(bool(jnp.all(bound >= entropy[:, None])))
        own = cross_entropies(targets, jnp.log(targets))
        np.testing.assert_allclose(jnp.diagonal(own), entropy, rtol=1e-5)

    def test_half_precision_is_computed_in_float32(self):
        half = draw(4, 2, 5).astype(jnp.bfloat16)
        self.assertEqual(cross_entropies(jax.nn.softmax(half), half).dtype, jnp.float32)


if __name__ == "__main__":
    absltest.main()
