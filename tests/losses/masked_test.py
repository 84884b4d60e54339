"""Masked pixel loss against the released MAE code, values and gradients."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.patches import patchify
from ssl_jax.losses.masked import masked_mse, normalize_patches

GOLDEN = Path(__file__).parents[1] / "golden"


class MaeTest(parameterized.TestCase):
    @parameterized.product(suffix=("", "_norm"), wide=(False, True))
    def test_loss_golden(self, suffix, wide):
        data = np.load(GOLDEN / "mae_ops.npz")
        prefix, dtype = ("f64_", jnp.float64) if wide else ("", jnp.float32)
        with jax.enable_x64(wide):
            images = jnp.asarray(data["in_imgs"], dtype).transpose(0, 2, 3, 1)
            target = patchify(images, int(data["hp_patch"]))
            target = normalize_patches(target) if suffix else target
            pred, mask = jnp.asarray(data["in_pred"], dtype), jnp.asarray(data["in_mask"], dtype)
            loss, grad = jax.value_and_grad(masked_mse)(pred, target, mask)
        self.assertEqual(loss.dtype, dtype)
        rtol = 1e-11 if wide else 1e-5
        np.testing.assert_allclose(loss, data[f"{prefix}out_loss{suffix}"], rtol=rtol)
        expected = data[f"{prefix}grad_pred{suffix}"]
        np.testing.assert_allclose(grad, expected, rtol=0, atol=10 * rtol * np.abs(expected).max())

    @parameterized.parameters(4, 14, 16)
    def test_zero_prediction_of_normalized_patches(self, patch):
        # The unbiased variance leaves (n - 1) / n, 767/768 for patches of 16: specs, section 3.3.
        n = 3 * patch**2
        patches = np.random.default_rng(0).normal(size=(1, 4, n)).astype(np.float32)
        loss = masked_mse(jnp.zeros_like(patches), normalize_patches(patches), jnp.ones((1, 4)))
        np.testing.assert_allclose(loss, (n - 1) / n, rtol=1e-5)

    def test_flat_patch_stays_flat(self):
        np.testing.assert_array_equal(normalize_patches(jnp.full((1, 1, 16), 0.25)), 0.0)

    def test_visible_patches_do_not_count(self):
        rng = np.random.default_rng(0)
        pred, target = (jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32) for _ in range(2))
        mask = jnp.array([[1, 0, 1, 0], [0, 0, 0, 1]], bool)
        grad = jax.grad(masked_mse)(pred, target, mask)
        np.testing.assert_array_equal(jnp.any(grad != 0, axis=-1), mask)
        expected = np.mean((np.asarray(pred) - np.asarray(target))[np.asarray(mask)] ** 2)
        np.testing.assert_allclose(masked_mse(pred, target, mask), expected, rtol=1e-6)
        self.assertEqual(masked_mse(pred, target, jnp.zeros_like(mask)), 0.0)


if __name__ == "__main__":
    absltest.main()
