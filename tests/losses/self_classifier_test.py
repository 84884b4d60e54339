"""Self-Classifier's loss against the released code; closed forms and invariances."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.self_classifier import self_classifier

GOLDEN = Path(__file__).parents[1] / "golden"
JITTED = jax.jit(self_classifier, static_argnums=1)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class SelfClassifierTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_golden(self, wide):
        data = np.load(GOLDEN / "self_classifier.npz")
        prefix, dtype = ("f64_", jnp.float64) if wide else ("", jnp.float32)
        rtol = 1e-10 if wide else 1e-5

        def loss(heads):
            each = [
                self_classifier(
                    logits.swapaxes(0, 1),
                    2,
                    row_temperature=float(data["hp_row_tau"]),
                    column_temperature=float(data["hp_col_tau"]),
                    eps=float(data["hp_eps"]),
                )
                for logits in heads
            ]
            return jnp.mean(jnp.stack(each))

        with jax.enable_x64(wide):
            value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(data["in_logits"], dtype))
        self.assertEqual(value.dtype, dtype)
        np.testing.assert_allclose(value, data[f"{prefix}out_loss"], rtol=rtol)
        expected = data[f"{prefix}grad_logits"]
        np.testing.assert_allclose(grad, expected, rtol=0, atol=10 * rtol * np.abs(expected).max())

    @parameterized.parameters(5, 40)
    def test_identical_rows_give_log_c(self, classes):
        logits = jnp.broadcast_to(0.5 * draw(1, 1, classes), (12, 3, classes))
        np.testing.assert_allclose(JITTED(logits, 2), np.log(classes), rtol=1e-4)

    def test_balanced_and_agreeing_gives_zero(self):
        labels = jnp.tile(jnp.arange(4), 6)
        logits = jnp.repeat(10 * jax.nn.one_hot(labels, 4)[:, None], 3, axis=1)
        np.testing.assert_allclose(JITTED(logits, 2), 0, atol=1e-5)

    def test_order_of_classes_and_examples_does_not_matter(self):
        logits, generator = draw(12, 4, 6), np.random.default_rng(1)
        expected = JITTED(logits, 2)
        np.testing.assert_allclose(JITTED(logits[..., generator.permutation(6)], 2), expected, 1e-5)
        np.testing.assert_allclose(JITTED(logits[generator.permutation(12)], 2), expected, 1e-5)

    def test_small_crops_are_not_compared_with_each_other(self):
        logits = draw(8, 4, 5)
        number = {
            (i, j): JITTED(logits[:, jnp.array([i, j])], 2) for i in range(4) for j in range(4)
        }
        # Of two views: the mean of both directions.
        pairs = [number[i, j] for i in range(4) for j in range(i + 1, 4) if i < 2]
        np.testing.assert_allclose(JITTED(logits, 2), np.mean(pairs), rtol=1e-5)

    def test_targets_carry_gradient(self):
        def loss(first):  # the first view as a target only: its predictions are given
            return self_classifier(jnp.stack([first, draw(8, 5, seed=1)], axis=1), 2)

        self.assertGreater(float(jnp.abs(jax.grad(loss)(draw(8, 5))).max()), 1e-3)

    def test_half_precision_is_computed_in_float32(self):
        self.assertEqual(JITTED(draw(8, 2, 5).astype(jnp.bfloat16), 2).dtype, jnp.float32)


if __name__ == "__main__":
    absltest.main()
