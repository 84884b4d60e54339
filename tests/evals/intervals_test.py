"""Student's interval of a mean."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.evals.intervals import MeanInterval, student


class StudentTest(parameterized.TestCase):
    def test_by_hand(self):
        """The standard error of 1, 2, 3 is 1 / sqrt(3)."""
        half = 4.302653 / math.sqrt(3)  # Student's t with 2 degrees of freedom, 97.5 %
        np.testing.assert_allclose(student([1, 2, 3]), (2, 2 - half, 2 + half), rtol=1e-6)

    def test_one_value_has_no_interval(self):
        interval = student([0.5])
        self.assertEqual(interval.mean, 0.5)
        self.assertTrue(math.isnan(interval.low) and math.isnan(interval.high))

    @parameterized.parameters(
        (0.1, 0.3, True), (-0.3, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False),
        (math.nan, math.nan, None),
    )  # fmt: skip
    def test_whether_it_excludes_zero(self, low, high, excludes):
        self.assertEqual(MeanInterval(0.0, low, high).excludes_zero, excludes)


if __name__ == "__main__":
    absltest.main()
