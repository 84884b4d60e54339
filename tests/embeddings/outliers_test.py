"""Mean distances to the nearest rows, compared with NumPy."""

import numpy as np
from absl.testing import absltest

from ssl_jax.embeddings.outliers import oddness


class OutliersTest(absltest.TestCase):
    def test_distances_are_numpys(self):
        rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
        odd = oddness(rows, 4)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = unit @ unit.T
        np.fill_diagonal(cosines, -np.inf)
        nearest = np.sort(cosines, axis=1)[:, :-5:-1]
        np.testing.assert_allclose(odd.distance, 1 - nearest.mean(1), atol=1e-5)
        np.testing.assert_array_equal(odd.nearest[:, 0], cosines.argmax(1))
        gap = odd.distance - np.median(odd.distance)
        np.testing.assert_allclose(odd.deviations, gap / (1.4826 * np.median(np.abs(gap))))

    def test_the_row_of_another_direction_is_the_oddest(self):
        rows = np.abs(np.random.default_rng(1).normal(size=(40, 5))).astype(np.float32)
        rows[13] *= -1
        odd = oddness(rows, 5)
        self.assertEqual(odd.distance.argmax(), 13)
        self.assertGreater(odd.deviations[13], 5)

    def test_equal_distances_have_no_deviation(self):
        odd = oddness(np.eye(6, dtype=np.float32), 2)
        np.testing.assert_array_equal(odd.deviations, np.zeros(6))
        np.testing.assert_allclose(odd.distance, np.ones(6))


if __name__ == "__main__":
    absltest.main()
