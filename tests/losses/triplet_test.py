"""The triplet losses against S4L's code and tf.contrib's, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.triplet import _squared_distances, batch_hard, semi_hard
from tests.losses.forms import load


def value_and_grad(loss, z):
    return jax.jit(jax.value_and_grad(loss))(jnp.asarray(z))


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(
        ("soft_m0", {}), ("hinge_m02", {"margin": 0.2}), ("hinge_sq_m05", {"margin": 0.5})
    )
    def test_batch_hard(self, name, options):
        data = load("exemplar_batch_hard", False)
        labels = jnp.asarray(data["in_labels"])
        options = options | {"squared": "sq" in name}
        unit = jnp.asarray(data["in_emb"])
        np.testing.assert_allclose(
            batch_hard(l2_normalize(unit), labels, **options),
            data[f"out_{name}_each"],
            rtol=1e-5,
            atol=1e-6,
        )
        value, slope = value_and_grad(
            lambda z: jnp.mean(batch_hard(l2_normalize(z), labels, **options)), unit
        )
        np.testing.assert_allclose(value, data[f"out_{name}_loss"], rtol=1e-5)
        np.testing.assert_allclose(slope, data[f"grad_{name}_emb"], atol=1e-5)

    @parameterized.parameters(0, 1)
    def test_semi_hard(self, axis):
        data = load("exemplar_triplet_semihard", False)
        labels, margin = jnp.asarray(data["in_labels"]), float(data["hp_margin"])
        unit = l2_normalize(jnp.asarray(data["in_emb"]), axis)
        np.testing.assert_allclose(
            _squared_distances(unit), data[f"out_sqdist_axis{axis}"], atol=1e-5
        )
        value, slope = value_and_grad(
            lambda z: semi_hard(l2_normalize(z, axis), labels, margin), data["in_emb"]
        )
        np.testing.assert_allclose(value, data[f"out_loss_axis{axis}"], rtol=1e-5)
        np.testing.assert_allclose(slope, data[f"grad_emb_axis{axis}"], atol=1e-5)


class PropertiesTest(absltest.TestCase):
    def test_two_pairs_of_twins(self):
        z = jnp.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
        each = batch_hard(z, jnp.array([0, 0, 1, 1]))
        np.testing.assert_allclose(each, np.log1p(np.exp(-5.0)), rtol=1e-4)

    def test_equal_embeddings(self):
        labels = jnp.array([0, 0, 1, 1])
        value, slope = value_and_grad(lambda z: jnp.mean(batch_hard(z, labels)), jnp.ones((4, 3)))
        np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
        self.assertTrue(np.isfinite(slope).all())
        value, slope = value_and_grad(lambda z: semi_hard(z, labels, 0.5), jnp.ones((4, 3)))
        np.testing.assert_allclose(value, 0.5)
        self.assertTrue(np.isfinite(slope).all())

    def test_one_label_per_row(self):
        with self.assertRaisesRegex(ValueError, r"labels \(n\) int, got \(4, 3\) .* \(3,\)"):
            batch_hard(jnp.ones((4, 3)), jnp.zeros(3))


if __name__ == "__main__":
    absltest.main()
