"""The sigmoid loss of several labels: section 3 of JFT (1707.02968), in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.multi_label import sigmoid_cross_entropy, soft_sigmoid_cross_entropy

RNG = np.random.default_rng(0)


class SigmoidTest(parameterized.TestCase):
    @parameterized.parameters(([0, 3],), ([2, -1],), ([-1, -1],))
    def test_without_evidence_each_class_costs_ln_2(self, labels):
        loss = sigmoid_cross_entropy(jnp.zeros((1, 18291)), jnp.array([labels]))
        np.testing.assert_allclose(loss, 12678.4, rtol=1e-5)

    def test_by_hand(self):
        loss = sigmoid_cross_entropy(jnp.array([[0.0, 2.0]]), jnp.array([[0, -1]]))
        np.testing.assert_allclose(loss, 0.693147 + 2.126928, rtol=1e-6)

    def test_the_gradient_is_probability_minus_target(self):
        z, labels = jnp.asarray(RNG.normal(size=(3, 6))), jnp.array([[4, 1], [0, -1], [-1, -1]])
        slope = jax.grad(lambda z: jnp.sum(sigmoid_cross_entropy(z, labels)))(z)
        targets = np.zeros((3, 6))
        targets[0, [1, 4]] = targets[1, 0] = 1
        np.testing.assert_allclose(slope, jax.nn.sigmoid(z) - targets, rtol=1e-5, atol=1e-6)

    def test_a_repeated_label_counts_once_and_the_order_does_not_matter(self):
        z = jnp.tile(jnp.asarray(RNG.normal(size=(1, 6))), (3, 1))
        loss = sigmoid_cross_entropy(z, jnp.array([[2, 5, -1], [5, -1, 2], [5, 2, 5]]))
        np.testing.assert_array_equal(loss, np.broadcast_to(loss[0], 3))

    def test_an_image_without_labels_has_a_loss(self):
        z = jnp.asarray(RNG.normal(size=(1, 6)))
        none = sigmoid_cross_entropy(z, jnp.array([[-1]]))
        np.testing.assert_allclose(none, jnp.sum(jax.nn.softplus(z), -1), rtol=1e-6)

    def test_soft_targets_mix_the_losses_of_both_answers(self):
        z = jnp.asarray(RNG.normal(size=(3, 6)))
        hard = soft_sigmoid_cross_entropy(z, jnp.zeros((3, 6)).at[0, 2].set(1))
        labels = jnp.array([[2], [-1], [-1]])
        np.testing.assert_allclose(hard, sigmoid_cross_entropy(z, labels), rtol=1e-6)
        yes, no = (soft_sigmoid_cross_entropy(z, jnp.full((3, 6), y)) for y in (1.0, 0.0))
        mixed = soft_sigmoid_cross_entropy(z, jnp.full((3, 6), 0.3))
        np.testing.assert_allclose(mixed, 0.3 * yes + 0.7 * no, rtol=1e-5)

    def test_large_scores_stay_finite(self):
        z = jnp.array([[1e4, -1e4]])
        np.testing.assert_allclose(sigmoid_cross_entropy(z, jnp.array([[0]])), 0)
        np.testing.assert_allclose(sigmoid_cross_entropy(z, jnp.array([[1]])), 2e4)


if __name__ == "__main__":
    absltest.main()
