import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.evals.protocols.lidar import Lidar, lidar


def scattered(between, within, n=400, q=20, seed=0):
    """(n, q, D): images apart by `between` in each dimension, their views by `within`."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(n, 1, len(between))) * between
    return centres + draw.normal(size=(n, q, len(between))) * within


class LidarTest(absltest.TestCase):
    def test_as_defined(self):
        x = scattered(np.array([1.0, 2, 0.5]), np.array([0.5, 0.3, 1.0]), n=30, q=4)
        means = x.mean(1)
        between = np.cov(means.T)
        within = sum(np.cov(views.T) for views in x) / len(x) + 1e-4 * np.eye(3)
        values, vectors = np.linalg.eigh(within)
        root = vectors @ np.diag(values**-0.5) @ vectors.T
        p = np.linalg.eigvalsh(root @ between @ root)
        p = p / p.sum() + 1e-7
        self.assertAlmostEqual(lidar(x), np.exp(-np.sum(p * np.log(p))), places=6)

    def test_directions_of_equal_weight_are_counted(self):
        ones = np.ones(6)
        self.assertAlmostEqual(lidar(scattered(ones, 0.1 * ones)), 6, delta=0.1)
        # Three dimensions in which only the views differ do not count.
        self.assertAlmostEqual(
            lidar(scattered(ones * [1, 1, 1, 0, 0, 0], 0.1 * ones)), 3, delta=0.1
        )

    def test_a_rotation_and_a_shift_change_nothing(self):
        x = scattered(np.array([1.0, 2, 0.5]), np.array([0.5, 0.3, 1.0]), n=50, q=5)
        turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
        self.assertAlmostEqual(lidar(x @ turn + 7), lidar(x), places=6)

    def test_collapsed_and_few_images_stay_bounded(self):
        self.assertAlmostEqual(lidar(np.ones((5, 3, 4))), 1, delta=1e-4)
        x = np.random.default_rng(0).normal(size=(3, 4, 10))
        self.assertLessEqual(lidar(x), 2.01)

    def test_impossible_settings(self):
        with self.assertRaisesRegex(UserError, "lidar.views: expected .* of at least 2"):
            Lidar(views=1)


if __name__ == "__main__":
    absltest.main()
