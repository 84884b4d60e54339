"""Softmax cross-entropy against scikit-learn and its own definition."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy.special import softmax
from sklearn.metrics import log_loss

from ssl_jax.losses.cross_entropy import cross_entropy


class CrossEntropyTest(parameterized.TestCase):
    def setUp(self):
        rng = np.random.default_rng(0)
        self.logits = rng.normal(size=(20, 5)).astype(np.float32)
        self.labels = rng.integers(0, 5, 20)

    def test_equals_scikit_learn(self):
        probs = softmax(self.logits.astype(np.float64), axis=-1)
        expected = log_loss(self.labels, probs, labels=range(5))
        loss = cross_entropy(self.logits, self.labels)
        self.assertEqual(loss.shape, (20,))
        np.testing.assert_allclose(jnp.mean(loss), expected, rtol=1e-6)

    @parameterized.parameters(0.0, 0.1, 0.7)
    def test_label_smoothing(self, s):
        target = (1 - s) * np.eye(5)[self.labels] + s / 5
        expected = -np.sum(target * np.asarray(jax.nn.log_softmax(self.logits)), axis=-1)
        np.testing.assert_allclose(cross_entropy(self.logits, self.labels, s), expected, rtol=1e-5)

    def test_uniform_and_extreme_logits(self):
        labels = jnp.array([0, 7])
        np.testing.assert_allclose(cross_entropy(jnp.zeros((2, 8)), labels), np.log(8), rtol=1e-6)
        extreme = jnp.array([[1e4, 0.0], [1e4, 0.0]])
        loss, grad = jax.value_and_grad(lambda x: cross_entropy(x, jnp.array([0, 1])).sum())(
            extreme
        )
        np.testing.assert_allclose(loss, 1e4)
        np.testing.assert_allclose(grad, [[0, 0], [1, -1]])

    def test_dtypes(self):
        loss = cross_entropy(
            jnp.asarray(self.logits, jnp.bfloat16).reshape(4, 5, 5), self.labels.reshape(4, 5)
        )
        self.assertEqual((loss.shape, loss.dtype), ((4, 5), jnp.float32))
        with jax.enable_x64(True):
            loss = cross_entropy(jnp.asarray(self.logits, jnp.float64), self.labels, 0.1)
            self.assertEqual(loss.dtype, jnp.float64)


if __name__ == "__main__":
    absltest.main()
