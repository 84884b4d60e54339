"""Errors of depths and normals, by hand."""

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.depth_metrics import angles, angular_errors, depth_errors


class DepthTest(parameterized.TestCase):
    def test_the_truth_has_no_error(self):
        truth = np.array([[1.0, 2.0], [0.5, 9.0]])
        numbers = depth_errors(truth, truth)
        for name, value in numbers.items():
            self.assertEqual(value, 1.0 if name.startswith("delta") else 0.0, name)

    def test_by_hand(self):
        """Two pixels: 2 m taken for 1 m, and 4 m taken for 5 m; the third is not known."""
        numbers = depth_errors(np.array([1.0, 5.0, 7.0]), np.array([2.0, 4.0, 0.0]))
        logs = np.array([np.log(0.5), np.log(1.25)])
        expected = {
            "delta1": 0.0,  # 1.25 is not below 1.25
            "delta2": 0.5,
            "delta3": 0.5,  # a ratio of 2 is above 1.953
            "abs_rel": (1 / 2 + 1 / 4) / 2,
            "sq_rel": (1 / 2 + 1 / 4) / 2,
            "rmse": 1.0,
            "rmse_log": np.sqrt(np.mean(logs**2)),
            "log10": (np.log10(2) + np.log10(1.25)) / 2,
            "silog": 100 * np.sqrt(np.mean(logs**2) - np.mean(logs) ** 2),
        }
        self.assertEqual(set(numbers), set(expected))
        for name, value in expected.items():
            self.assertAlmostEqual(numbers[name], value, places=12, msg=name)

    def test_a_wrong_scale_is_no_scale_invariant_error(self):
        truth = np.random.default_rng(0).uniform(1, 9, (4, 4))
        numbers = depth_errors(3 * truth, truth)
        self.assertAlmostEqual(numbers["silog"], 0, places=5)
        self.assertAlmostEqual(numbers["abs_rel"], 2)

    @parameterized.parameters(0.0, np.nan, -1.0)
    def test_nothing_known(self, value):
        with self.assertRaisesRegex(NotMeasurable, "no pixel of an image has a known depth"):
            depth_errors(np.ones(3), np.full(3, value))


class NormalsTest(parameterized.TestCase):
    @parameterized.parameters(
        ((0, 0, 5), 0.0), ((1, 0, 0), 90.0), ((0, 0, -1), 180.0), ((0, 1, 1), 45.0)
    )
    def test_angles(self, predicted, expected):
        truth = np.array([[0, 0, 1.0], [0, 0, 0]])
        degrees = angles(np.array([predicted, (1, 1, 1)], float), truth)
        np.testing.assert_allclose(degrees, [expected], atol=1e-5)

    def test_errors(self):
        numbers = angular_errors(np.array([0.0, 10, 20, 90]))
        expected = {"mean": 30, "median": 15, "rmse": np.sqrt((100 + 400 + 8100) / 4)}
        expected |= {"within_11.25": 0.5, "within_22.5": 0.75, "within_30": 0.75}
        for name, value in expected.items():
            self.assertAlmostEqual(numbers[name], value, msg=name)
        with self.assertRaisesRegex(NotMeasurable, "no pixel has a known normal"):
            angular_errors(np.zeros(0))


if __name__ == "__main__":
    absltest.main()
