"""Temperature, calibration error and interval of an accuracy, by hand-computed cases."""

import numpy as np
from absl.testing import absltest
from scipy.special import softmax
from scipy.stats import binomtest

from ssl_jax.evals.calibration import (
    LOWEST,
    calibration_error,
    fit_temperature,
    log_loss,
    probabilities,
    wilson,
)


class CalibrationTest(absltest.TestCase):
    def test_temperature_of_logits_that_are_too_large(self):
        draw = np.random.default_rng(0)
        logits = 2 * draw.normal(size=(20_000, 4))
        labels = np.array([draw.choice(4, p=p) for p in softmax(logits, axis=1)])
        self.assertAlmostEqual(fit_temperature(logits, labels), 1, delta=0.05)
        self.assertAlmostEqual(fit_temperature(3 * logits, labels), 3, delta=0.15)

    def test_a_few_correct_examples_do_not_make_it_certain(self):
        logits, labels = np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0])
        temperature = fit_temperature(logits, labels)
        self.assertBetween(temperature, LOWEST * 2, 1)
        # There the slopes of the loss and of the prior cancel: 4 (p_wrong summed) / T = -log T.
        wrong = 1 - probabilities(logits, temperature).max(1)[0]
        self.assertAlmostEqual(4 * wrong / temperature, -np.log(temperature), places=3)

    def test_log_loss(self):
        logits = np.log([[0.5, 0.5], [0.2, 0.8]])
        expected = -(np.log(0.5) + np.log(0.8)) / 2
        self.assertAlmostEqual(log_loss(logits, np.array([0, 1])), expected, places=12)

    def test_calibration_error(self):
        # Two bins: (0, 0.5] with accuracy 1 of 2, confidence 0.4; (0.5, 1] with 1 of 3 and 0.9.
        confidence = np.array([0.3, 0.5, 0.8, 0.9, 1.0])
        correct = np.array([True, False, True, False, False])
        expected = 2 / 5 * abs(1 / 2 - 0.4) + 3 / 5 * abs(1 / 3 - 0.9)
        self.assertAlmostEqual(calibration_error(confidence, correct, bins=2), expected, places=12)
        self.assertEqual(calibration_error(np.ones(3), np.ones(3, bool)), 0)

    def test_interval_as_scipy_computes_it(self):
        for correct, total in ((0, 5), (9, 10), (10, 10), (300, 360)):
            expected = binomtest(correct, total).proportion_ci(method="wilson")
            np.testing.assert_allclose(wilson(correct, total), expected, atol=1e-12)


if __name__ == "__main__":
    absltest.main()
