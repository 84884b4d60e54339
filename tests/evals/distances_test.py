"""Distances of sets of features against closed forms and definitions."""

import numpy as np
from absl.testing import absltest
from scipy.linalg import sqrtm

from ssl_jax.core.errors import UserError
from ssl_jax.evals.distances import distances, frechet, kernel_distance


def rows(count, shift=0.0, seed=0, width=5):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(count, width)) @ draw.normal(size=(width, width)) + shift


class DistancesTest(absltest.TestCase):
    def test_frechet_is_the_formula_of_its_paper(self):
        x, y = rows(40), rows(30, 1.0, 1)
        a, b = np.cov(x.T), np.cov(y.T)
        expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * sqrtm(a @ b).real)
        np.testing.assert_allclose(frechet(x, y), expected, rtol=1e-6)
        np.testing.assert_allclose(frechet(x, x), 0, atol=1e-9)
        np.testing.assert_allclose(frechet(x, x + 2), 5 * 4, rtol=1e-6)

    def test_kernel_distance_is_the_mean_over_pairs(self):
        x, y = rows(7), rows(6, 0.5, 1)
        kernel = lambda a, b: (a @ b / 5 + 1) ** 3  # noqa: E731
        within = lambda z: np.mean(  # noqa: E731
            [kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
        )
        between = np.mean([kernel(a, b) for a in x for b in y])
        expected = within(x) + within(y) - 2 * between
        np.testing.assert_allclose(kernel_distance(x, y), expected, rtol=1e-9)

    def test_equal_sources_are_close_and_the_scale_is_no_matter(self):
        target, same, other = rows(300, seed=1), rows(300, seed=1)[::-1], rows(300, 3.0, 2)
        near, far = distances(same, target), distances(other, target)
        for name in ("frechet", "kid"):
            self.assertLess(near[name], 0.1 * far[name])
        scaled = distances(7 * other + 1, 7 * target + 1)
        np.testing.assert_allclose(scaled["kid"], far["kid"], rtol=1e-6)
        self.assertTrue(np.isfinite([*distances(np.ones((4, 3)), np.ones((5, 3))).values()]).all())

    def test_a_single_image(self):
        with self.assertRaisesRegex(UserError, "at least 2 are needed"):
            distances(rows(1), rows(5))


if __name__ == "__main__":
    absltest.main()
