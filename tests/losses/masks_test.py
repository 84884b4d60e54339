"""The loss of a mask of which some pixels are not known."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.masks import mask_logistic
from tests.nets.weights import GOLDEN, assert_close


class MaskLogisticTest(absltest.TestCase):
    def test_golden(self):
        with np.load(GOLDEN / "motion_mask_loss.npz") as file:
            data = dict(file)
        logits, mask = data["in_logits"], data["in_mask_ignore_m1"]
        loss, gradient = jax.value_and_grad(mask_logistic)(logits, mask)
        assert_close(loss, data["out_loss_mean_over_valid"], 1e-5)
        assert_close(gradient, data["grad_logits"], 1e-5)
        self.assertTrue(np.all(np.asarray(gradient)[mask == -1] == 0))
        # gustavla's variant: 32 classes of saliency.
        bins = np.floor(32 * 0.99999 * data["in_saliency"]).astype(np.int32)
        np.testing.assert_array_equal(bins, data["out_saliency_bin"])
        saliency = jnp.moveaxis(data["in_saliency_logits"], 1, -1)
        assert_close(jnp.mean(cross_entropy(saliency, bins)), data["out_saliency_loss"], 1e-5)

    def test_zero_logits_cost_ln_2_per_known_pixel(self):
        mask = jnp.array([[0, 1, 255], [255, 255, 1]])
        self.assertAlmostEqual(float(mask_logistic(jnp.zeros(mask.shape), mask)), np.log(2), 6)
        self.assertEqual(float(mask_logistic(jnp.ones((2,)), jnp.array([255, -1]))), 0)

    def test_far_logits_have_finite_gradients(self):
        logits, mask = jnp.array([1e4, -1e4, jnp.inf]), jnp.array([0, 1, 255])
        loss, gradient = jax.value_and_grad(mask_logistic)(logits, mask)
        self.assertAlmostEqual(float(loss), 1e4, 0)
        np.testing.assert_allclose(gradient, [0.5, -0.5, 0])

    def test_shapes(self):
        with self.assertRaisesRegex(ValueError, "mask_logistic: expected logits, mask"):
            mask_logistic(jnp.zeros((2, 3)), jnp.zeros((2, 4), int))


if __name__ == "__main__":
    absltest.main()
