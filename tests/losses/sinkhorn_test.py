"""Sinkhorn-Knopp against SwAV's, DINOv2's and SeLa's, its marginals, and numbers out of range."""

from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from absl.testing import absltest, parameterized

from ssl_jax.losses.large_batch import sinkhorn_sweeps
from ssl_jax.losses.sinkhorn import sinkhorn

GOLDEN = Path(__file__).parents[1] / "golden"
JITTED = jax.jit(sinkhorn, static_argnums=(1, 2), static_argnames=("tolerance", "form"))
FORMS = ("scaling", "log")  # auto is scaling here; kernel has a file of its own


def draw(rows, columns, scale=1.0, seed=0):
    draws = np.random.default_rng(seed).normal(size=(rows, columns))
    return jnp.asarray(scale * draws, jnp.float32)


class SinkhornTest(parameterized.TestCase):
    @parameterized.product(form=FORMS, wide=(False, True))
    def test_swav_golden(self, form, wide):
        data = np.load(GOLDEN / "swav_sinkhorn.npz")
        expected = data["f64_out_q" if wide else "out_q"]
        with jax.enable_x64(wide):
            scores = jnp.asarray(data["in_scores"], jnp.float64 if wide else jnp.float32)
            for epsilon, iterations, q in zip(
                data["hp_epsilon"], data["hp_iters"], expected, strict=True
            ):
                actual = JITTED(scores, float(epsilon), int(iterations), form=form)
                self.assertEqual(actual.dtype, scores.dtype)
                np.testing.assert_allclose(actual, q, rtol=0, atol=1e-12 if wide else 2e-6)

    @parameterized.parameters(*FORMS)
    def test_dinov2_golden(self, form):
        data = np.load(GOLDEN / "dinov2_dino.npz")
        for teacher, expected in zip(data["in_teacher"], data["out_sinkhorn"], strict=True):
            teacher = teacher.reshape(-1, teacher.shape[-1])
            actual = JITTED(teacher, float(data["hp_teacher_temp"]), 3, form=form)
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)

    @parameterized.parameters(*FORMS)
    def test_dinov2_masked_patches_golden(self, form):
        data = np.load(GOLDEN / "dinov2_ibot.npz")
        teacher, mask = data["in_teacher"], data["in_mask"]
        actual = JITTED(
            teacher.reshape(-1, teacher.shape[-1]),
            float(data["hp_teacher_temp"]),
            3,
            valid=mask.ravel(),
            form=form,
        )
        np.testing.assert_allclose(
            actual[mask.ravel()], data["out_sinkhorn_masked"], rtol=0, atol=1e-5
        )
        np.testing.assert_array_equal(actual[~mask.ravel()], 0)

    @parameterized.parameters(*FORMS)
    def test_sela_golden(self, form):
        data = np.load(GOLDEN / "sela_sk.npz")
        power, iterations = int(data["hp_lamb"]), int(data["out_iters"])
        with jax.enable_x64(True):
            scores = jnp.log(jnp.asarray(data["in_probs"], jnp.float64))
            expected = data["out_Q"].T * len(scores)
            fixed = JITTED(scores, 1 / power, iterations, form=form)
            stopped = JITTED(scores, 1 / power, 100_000, tolerance=0.1, form=form)
        np.testing.assert_array_equal(np.asarray(fixed).argmax(1), data["out_labels"])
        np.testing.assert_allclose(fixed, expected, rtol=0, atol=1e-10)
        # The same number of iterations, in other blocks.
        np.testing.assert_allclose(stopped, fixed, rtol=0, atol=1e-10)

    @parameterized.parameters(*FORMS)
    def test_sela_in_float32(self, form):
        data = np.load(GOLDEN / "sela_sk.npz")
        scores = jnp.log(data["in_probs"])
        actual = JITTED(scores, 1 / int(data["hp_lamb"]), 5000, tolerance=0.1, form=form)
        self.assertEqual(actual.dtype, jnp.float32)
        expected = data["out_Q"].T * len(actual)
        np.testing.assert_array_equal(actual.argmax(1), data["out_labels"])
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)

    @parameterized.parameters(("scaling", 3), ("scaling", 14), ("log", 3))
    def test_blocks_of_any_size(self, form, iterations):
        """Blocks of one row, four (they divide), five (a rest) or all, with and without storing."""
        scores, results = draw(12, 5), []
        for rows in (1, 4, 5, 100):
            with mock.patch.object(sinkhorn_sweeps, "BLOCK", 5 * rows):
                results.append(jax.jit(lambda s: sinkhorn(s, 0.3, iterations, form=form))(scores))
        for other in results[1:]:
            np.testing.assert_allclose(other, results[0], atol=1e-6)

    def test_equal_scores_are_spread_evenly(self):
        np.testing.assert_allclose(JITTED(jnp.full((12, 7), 3.0), 0.05, 3), 1 / 7, rtol=1e-6)

    @parameterized.parameters((32, 8), (8, 32), (5, 1), (1, 5))
    def test_marginals(self, rows, columns):
        few = JITTED(draw(rows, columns), 0.5, 3)
        np.testing.assert_allclose(few.sum(1), 1, rtol=1e-6)
        many = JITTED(draw(rows, columns), 0.5, 300)
        np.testing.assert_allclose(many.sum(0), rows / columns, rtol=1e-5)

    def test_constants_of_rows_and_columns_do_not_matter_in_the_end(self):
        scores = draw(20, 6)
        shifted = scores + draw(20, 1, seed=1) + draw(1, 6, seed=2)
        expected = JITTED(scores, 0.5, 300)
        np.testing.assert_allclose(JITTED(shifted, 0.5, 300), expected, atol=1e-5)
        self.assertGreater(np.abs(JITTED(shifted, 0.5, 2) - JITTED(scores, 0.5, 2)).max(), 1e-3)

    def test_a_global_constant_never_matters(self):
        scores = draw(20, 6)
        np.testing.assert_allclose(JITTED(scores + 64, 0.5, 2), JITTED(scores, 0.5, 2), atol=1e-4)

    @parameterized.product(form=FORMS, scale=(1e2, 1e4, 1e6))
    def test_out_of_range_of_exp(self, form, scale):
        scores = draw(30, 5, scale).at[:, 3].add(-10 * scale).at[7].add(20 * scale)
        actual = JITTED(scores, 0.05, 50, form=form)
        self.assertTrue(np.isfinite(actual).all())
        np.testing.assert_allclose(actual.sum(1), 1, rtol=1e-5)

    def test_logarithms_are_exact_for_any_spread(self):
        """A column e^-4000 below the others gets its share in the first iteration."""
        scores = draw(30, 5, 0.1).at[:, 3].add(-200.0)
        log_q = np.asarray(scores, np.float64) / 0.05
        for _ in range(2):
            log_q -= scipy.special.logsumexp(log_q, axis=0, keepdims=True)
            log_q -= scipy.special.logsumexp(log_q, axis=1, keepdims=True)
        actual = JITTED(scores, 0.05, 2, form="log")
        # Scores of 4000 have float32's step of 2e-4.
        np.testing.assert_allclose(actual, np.exp(log_q), atol=1e-3)
        self.assertGreater(np.exp(log_q)[:, 3].sum(), 3)

    @parameterized.parameters(*FORMS)
    def test_padding_changes_nothing(self, form):
        scores, padding = draw(11, 4), 100 * draw(5, 4, seed=1)
        valid = jnp.arange(16) < 11
        for options in ({"form": form}, {"form": form, "tolerance": 0.01}):
            actual = JITTED(jnp.concatenate([scores, padding]), 0.1, 40, valid=valid, **options)
            expected = JITTED(scores, 0.1, 40, **options)
            np.testing.assert_allclose(actual[:11], expected, atol=1e-6)
            np.testing.assert_array_equal(actual[11:], 0)
        nothing = JITTED(scores, 0.1, 3, valid=jnp.zeros(11, bool), form=form)
        np.testing.assert_array_equal(nothing, 0)

    def test_no_gradient(self):
        grad = jax.grad(lambda s: jnp.sum(sinkhorn(s, 0.1, 3) * draw(8, 4, seed=1)))(draw(8, 4))
        np.testing.assert_array_equal(grad, 0)

    def test_half_precision_input_is_computed_in_float32(self):
        scores = draw(8, 4).astype(jnp.bfloat16)
        actual = JITTED(scores, 0.05, 3)
        self.assertEqual(actual.dtype, jnp.float32)
        np.testing.assert_array_equal(actual, JITTED(scores.astype(jnp.float32), 0.05, 3))

    @parameterized.parameters(((3,), 3), ((2, 3), 0))
    def test_bad_arguments(self, shape, iterations):
        with self.assertRaisesRegex(ValueError, "sinkhorn: expected"):
            sinkhorn(jnp.ones(shape), 0.1, iterations)

    def test_bad_form(self):
        with self.assertRaisesRegex(ValueError, "'dense' is not one of"):
            sinkhorn(jnp.ones((2, 3)), 0.1, 3, form="dense")
        with self.assertRaisesRegex(ValueError, "'kernel' expects"):
            sinkhorn(jnp.ones((2, 2**17)), 0.1, 3, form="kernel")


if __name__ == "__main__":
    absltest.main()
