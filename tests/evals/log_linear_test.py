"""The log-linear fit of scaling studies."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.evals.log_linear import fit


class FitTest(parameterized.TestCase):
    def test_a_planted_line(self):
        sizes = [1e7, 3e7, 1e8, 3e8]
        line = fit(sizes, [2 + 3 * math.log10(n) for n in sizes], [0] * 4)
        np.testing.assert_allclose(line[:2], (2, 3), rtol=1e-9)
        self.assertTrue(math.isnan(line.low) and math.isnan(line.high))

    def test_the_interval_is_students_over_the_seeds(self):
        sizes, groups = [1, 10] * 3, [0, 0, 1, 1, 2, 2]
        line = fit(sizes, [0, 1, 0, 2, 0, 3], groups)  # slopes 1, 2, 3: standard error 1 / sqrt(3)
        half = 4.302653 / math.sqrt(3)  # Student's t with 2 degrees of freedom, 97.5 %
        np.testing.assert_allclose(line[:4], (0, 2, 2 - half, 2 + half), rtol=1e-6, atol=1e-12)

    def test_the_interval_covers_a_planted_slope_as_often_as_it_says(self):
        draw, sizes = np.random.default_rng(0), np.tile([1, 3, 10, 30], 4)
        groups = np.repeat(np.arange(4), 4).tolist()
        covered = 0
        for _ in range(200):
            own = np.repeat(draw.normal(0.05, 0.01, 4), 4)  # each seed's slope
            values = 0.8 + own * np.log10(sizes) + draw.normal(0, 0.002, 16)
            line = fit(sizes, values, groups)
            covered += line.low < 0.05 < line.high
        self.assertBetween(covered, 180, 199)

    @parameterized.parameters(
        ([0, 1], "expected sizes above 0"), ([2, 2], "expected two or more sizes, got 1")
    )
    def test_points_that_define_no_line(self, sizes, message):
        with self.assertRaisesRegex(UserError, message):
            fit(sizes, [1, 2], [0, 0])


if __name__ == "__main__":
    absltest.main()
