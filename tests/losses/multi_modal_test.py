"""Losses of evolving losses and their sum: golden values; a weight of 0 switches a task off."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.multi_modal import (
    binary,
    feature_distance,
    margin_contrast,
    switched,
    weighted_sum,
)
from ssl_jax.losses.reconstruction import squared_error
from tests.losses.forms import load

INPUTS = ("rec", "fut", "order_logit", "z1", "z2", "zneg", "align_logit", "student", "teacher")


class MultiModalTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_golden(self, wide):
        data = load("evolving_losses", wide)

        def losses(x):
            margin = data["hp_contrast_margin"]
            return (
                squared_error(x["rec"], data["in_rec_target"]),
                squared_error(x["fut"], data["in_fut_target"]),
                binary(x["order_logit"], data["in_order_label"]).mean(),
                margin_contrast(x["z1"], x["z2"], x["zneg"], margin).mean(),
                binary(x["align_logit"], data["in_align_label"]).mean(),
                feature_distance(x["student"], x["teacher"]).mean(),
            )

        names = ("rec", "fut", "order", "contrast", "align", "distill")
        with jax.enable_x64(wide):
            inputs = {name: jnp.asarray(data[f"in_{name}"]) for name in INPUTS}
            for name, value in zip(names, losses(inputs), strict=True):
                np.testing.assert_allclose(value, data[f"out_loss_{name}"], rtol=1e-5)
            total = lambda x: weighted_sum(jnp.stack(losses(x)), data["hp_lambda"])  # noqa: E731
            value, grads = jax.value_and_grad(total)(inputs)
        np.testing.assert_allclose(value, data["out_total"], rtol=1e-5)
        for name, grad in grads.items():
            want = data.get(f"grad_{name}", np.zeros_like(grad))  # the teacher has none
            np.testing.assert_allclose(grad, want, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(grads["teacher"], 0)
        np.testing.assert_array_equal(grads["fut"], 0)  # its weight is 0

    @parameterized.parameters(0.0, 0.5)
    def test_a_task_of_weight_zero_adds_nothing_even_if_it_is_not_finite(self, weight):
        def total(x, head):
            broken = jnp.sum(jnp.sqrt(switched(x, weight) * switched(head, weight)) / 0)
            return weighted_sum(jnp.stack([jnp.sum(x**2), broken]), jnp.array([1.0, weight]))

        x = jnp.array([0.0, -1.0, 2.0])
        value, (of_x, of_head) = jax.jit(jax.value_and_grad(total, (0, 1)))(x, x)
        if weight:
            self.assertFalse(np.isfinite(value))
            self.assertFalse(np.isfinite(of_head).all())
        else:
            self.assertEqual(value, 5)
            np.testing.assert_array_equal(of_x, 2 * x)
            np.testing.assert_array_equal(of_head, 0)

    def test_the_margin_bounds_the_push(self):
        z, far = jnp.zeros((1, 2)), jnp.array([[1.0, 1.0]])
        np.testing.assert_allclose(margin_contrast(z, z, far, 3.0), [1.0])
        np.testing.assert_array_equal(margin_contrast(z, z, far, 2.0), [0.0])


if __name__ == "__main__":
    absltest.main()
