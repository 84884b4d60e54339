"""The one ranking by cosine, against a loop and `jax.lax.top_k`."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.evals import neighbours


class NeighboursTest(parameterized.TestCase):
    @parameterized.parameters(3, 9)  # some rows, all rows
    def test_nearest_is_a_loop_over_cosines(self, k):
        draw = np.random.default_rng(0)
        a, b = draw.normal(size=(5, 4)), draw.normal(size=(9, 4))
        cosines = np.array([[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a])
        expected = [sorted(range(9), key=lambda i, c=row: -c[i])[:k] for row in cosines]
        values, index = neighbours.nearest(b, a, k)
        np.testing.assert_array_equal(index, expected)
        np.testing.assert_allclose(values, np.take_along_axis(cosines, index, 1), atol=1e-6)

    @parameterized.parameters(1, 3, 5, 64, 320)
    def test_top_is_top_k_whose_ties_go_to_the_first(self, k):
        rng = np.random.default_rng(k)
        few = rng.integers(0, 4, (7, 5 * neighbours.BLOCK)).astype(np.float32)  # many ties
        for x in (
            few,
            rng.normal(size=few.shape).astype(np.float32),
            np.where(few > 1, few, -np.inf),
        ):
            for values, expected in zip(neighbours._top(x, k), jax.lax.top_k(x, k), strict=True):
                np.testing.assert_array_equal(values, expected)


if __name__ == "__main__":
    absltest.main()
