"""Supervised contrastive learning against its definition, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.ntxent import ntxent
from ssl_jax.losses.supcon import supcon
from tests.losses.forms import FORMS, value_and_grad

Z = np.random.default_rng(0).normal(size=(18, 5))
LABELS = np.array([7, 7, 2, 2, 7, 9, 9, 2, 100, 7, 9, 2, 7, 7, 2, 9, 9, 2])  # 100 only once


def definition(z, mean, t=0.3):
    z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    own = jnp.eye(len(z), dtype=bool)
    log_p = jax.nn.log_softmax(jnp.where(own, -jnp.inf, z @ z.T / t), axis=1)
    values = []
    for i in np.flatnonzero(LABELS != 100):
        positives = log_p[i, (LABELS[i] == LABELS) & (np.arange(len(z)) != i)]
        inside = jax.nn.logsumexp(positives) - np.log(len(positives))
        values.append(-jnp.mean(positives) if mean == "out" else -inside)
    return jnp.mean(jnp.stack(values))


class SupconTest(parameterized.TestCase):
    @parameterized.product(mean=("out", "in"), similarity=FORMS)
    def test_definition(self, mean, similarity):
        with jax.enable_x64(True):
            z = jnp.asarray(Z)
            loss = lambda z, labels, **form: supcon(z, labels, 0.3, mean=mean, **form)  # noqa: E731
            value, slope = value_and_grad(loss, z, LABELS, similarity=similarity)
            expected, gradient = jax.value_and_grad(definition)(z, mean)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(slope, gradient, atol=1e-12 * np.abs(gradient).max(), rtol=0)

    @parameterized.parameters("out", "in")
    def test_without_shared_labels_it_is_ntxent(self, mean):
        z = jnp.asarray(Z, jnp.float32)
        value = supcon(z, np.arange(18) // 2, 0.3, mean=mean)
        np.testing.assert_allclose(value, ntxent(z, 0.3), rtol=1e-6)

    @parameterized.parameters("out", "in")
    def test_no_positives_at_all(self, mean):
        loss = lambda z: supcon(z, np.arange(18), 0.3, mean=mean)  # noqa: E731
        value, slope = jax.value_and_grad(loss)(jnp.asarray(Z, jnp.float32))
        np.testing.assert_array_equal(value, 0)
        np.testing.assert_array_equal(slope, 0)

    def test_bad_labels(self):
        with self.assertRaisesRegex(ValueError, r"labels \(n\) int, got \(18, \d+\) .* \(9,\)"):
            supcon(Z, np.arange(9), 0.3)


if __name__ == "__main__":
    absltest.main()
