"""NT-Xent against four released codes, closed forms and invariances."""

from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.large_batch import tiles
from ssl_jax.losses.ntxent import ntxent
from tests.losses.forms import FORMS, mesh_for

GOLDEN = Path(__file__).parents[1] / "golden"

# One compilation a shape; op by op would be a dozen.
JITTED = jax.jit(ntxent, static_argnames=("normalize", "reduction"))
GRAD = jax.jit(jax.value_and_grad(ntxent))
GOLDEN_GRAD = jax.jit(jax.value_and_grad(ntxent), static_argnames=("reduction", "similarity"))


def interleave(z1, z2):
    return np.stack([z1, z2], axis=1).reshape(-1, z1.shape[-1])


def draw(rows, dim, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, dim)), jnp.float32)


class NtxentTest(parameterized.TestCase):
    @parameterized.product(
        file=("ntxent_t01", "ntxent_t05"), reduction=("simclr", "mean"), similarity=FORMS
    )
    def test_golden(self, file, reduction, similarity):
        data = np.load(GOLDEN / f"{file}.npz")
        z1, z2, t = data["in_z1"], data["in_z2"], float(data["hp_temperature"])
        form = {"reduction": reduction, "similarity": similarity}
        with mesh_for(2 * len(z1)), mock.patch.object(tiles, "TILE", 5):
            value, grad = GOLDEN_GRAD(interleave(z1, z2), t, **form)
        losses, prefix = {
            "simclr": (("out_loss", "out_loss_tf1"), "grad_"),
            "mean": (("out_loss_lightly_mean2N", "out_loss_pml_mean2N"), "grad_lightly_"),
        }[reduction]
        for key in losses:
            np.testing.assert_allclose(value, data[key], rtol=1e-5)
        for name, rows in (("z1", grad[0::2]), ("z2", grad[1::2])):
            expected = data[prefix + name]
            np.testing.assert_allclose(rows, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)

    @parameterized.parameters("ntxent_t01", "ntxent_t05")
    def test_golden_without_normalization(self, file):
        data = np.load(GOLDEN / f"{file}.npz")
        z = interleave(0.2 * data["in_z1"], 0.2 * data["in_z2"])
        value = JITTED(z, float(data["hp_temperature"]), normalize=False, reduction="simclr")
        np.testing.assert_allclose(value, data["out_loss_hidden_norm_false_on_0p2z"], rtol=1e-5)

    @parameterized.parameters(2, 8, 33)
    def test_constant_embeddings(self, b):
        value = JITTED(jnp.ones((2 * b, 5)), 0.1, reduction="simclr")
        np.testing.assert_allclose(value, 2 * np.log(2 * b - 1), rtol=1e-5)

    def test_orthonormal_pairs(self):
        b, t = 8, 0.5
        value = JITTED(jnp.repeat(jnp.eye(b), 2, axis=0), t, reduction="simclr")
        np.testing.assert_allclose(value, 2 * np.log1p((2 * b - 2) * np.exp(-1 / t)), rtol=1e-6)
        np.testing.assert_allclose(value, 2.125759, rtol=1e-6)

    def test_invariances(self):
        z = draw(12, 6)
        pairs = z.reshape(6, 2, 6)
        rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))
        scale = jnp.linspace(0.1, 9.0, 12)[:, None]
        order = np.random.default_rng(2).permutation(6)
        for other in (
            pairs[:, ::-1].reshape(12, 6),
            pairs[order].reshape(12, 6),
            z @ rotation.astype(np.float32),
            z * scale,
        ):
            np.testing.assert_allclose(JITTED(other, 0.2), JITTED(z, 0.2), rtol=1e-5)
        self.assertGreater(
            abs(JITTED(pairs.swapaxes(0, 1).reshape(12, 6), 0.2) - JITTED(z, 0.2)), 0.01
        )

    def test_gradient_is_orthogonal_to_the_embedding(self):
        z = draw(10, 7)
        _, grad = GRAD(z, 0.1)
        np.testing.assert_allclose(jnp.sum(z * grad, axis=1), 0, atol=1e-5 * jnp.abs(grad).max())
        self.assertGreater(float(jnp.abs(grad).max()), 1e-3)

    def test_half_precision_input_is_computed_in_float32(self):
        z = draw(32, 16).astype(jnp.bfloat16)
        value = JITTED(z, 0.1)
        self.assertEqual(value.dtype, jnp.float32)
        np.testing.assert_allclose(value, JITTED(z.astype(jnp.float32), 0.1), rtol=1e-6)
        self.assertLess(abs(value - JITTED(draw(32, 16), 0.1)), 1e-2 * value + 1e-2)

    def test_float64(self):
        with jax.enable_x64(True):
            z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5)))
            value, grad = GRAD(z, 0.3)
            self.assertEqual((value.dtype, grad.dtype), (jnp.float64, jnp.float64))
            step = 1e-6 * jnp.zeros((8, 5)).at[3, 2].set(1.0)
            slope = (GRAD(z + step, 0.3)[0] - GRAD(z - step, 0.3)[0]) / 2e-6
            np.testing.assert_allclose(grad[3, 2], slope, rtol=1e-7)

    @parameterized.parameters(((3, 4),), ((2, 2, 4),))
    def test_bad_shape(self, shape):
        with self.assertRaisesRegex(ValueError, "two rows per example"):
            ntxent(jnp.ones(shape), 0.1)


if __name__ == "__main__":
    absltest.main()
