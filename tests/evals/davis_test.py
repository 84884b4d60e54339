"""J and F against closed forms and against a search of all pairs of pixels."""

import math

import numpy as np
from absl.testing import absltest

from ssl_jax.evals import davis


def brute_boundary(predicted, true, bound):
    """Follow the definition: shares of boundary pixels that are near one of the other mask."""

    def pixels(mask):
        border = []
        for i, j in np.ndindex(*mask.shape):
            down, right = min(i + 1, len(mask) - 1), min(j + 1, mask.shape[1] - 1)
            after = mask[i, right], mask[down, j], mask[down, right]
            if any(mask[i, j] != other for other in after):
                border.append((i, j))
        return border

    radius = math.ceil(bound * math.sqrt(true.shape[0] ** 2 + true.shape[1] ** 2))

    def share(of, near):
        hits = [min((a - c) ** 2 + (b - d) ** 2 for c, d in near) <= radius**2 for a, b in of]
        return sum(hits) / len(of)

    ours, theirs = pixels(predicted), pixels(true)
    precision, recall = share(ours, theirs), share(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def square(top, left, side, shape=(40, 60)):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


class DavisTest(absltest.TestCase):
    def test_region_similarity_of_squares(self):
        # 10 x 10 moved by 2: 80 pixels in both, 120 in one.
        self.assertEqual(davis.region_similarity(square(5, 5, 10), square(5, 7, 10)), 80 / 120)
        nothing = np.zeros((4, 4), bool)
        self.assertEqual(davis.region_similarity(nothing, nothing), 1)
        self.assertEqual(davis.region_similarity(nothing, ~nothing), 0)

    def test_outline(self):
        outline = davis.outline(square(1, 1, 2, (4, 5)))
        expected = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
        np.testing.assert_array_equal(outline, expected.astype(bool))
        self.assertFalse(davis.outline(np.ones((3, 3), bool)).any())

    def test_boundary_accuracy(self):
        # The diagonal is 72.1: 0.008 of it are 0.58 pixels, rounded up to 1.
        true = square(10, 10, 12)
        self.assertEqual(davis.boundary_accuracy(true, true), 1)
        self.assertEqual(davis.boundary_accuracy(square(10, 11, 12), true), 1)
        self.assertLess(davis.boundary_accuracy(square(10, 12, 12), true), 1)
        self.assertEqual(davis.boundary_accuracy(square(10, 12, 12), true, bound=2), 1)
        self.assertEqual(davis.boundary_accuracy(square(10, 40, 12), true), 0)
        nothing = np.zeros_like(true)
        self.assertEqual(davis.boundary_accuracy(nothing, true), 0)
        self.assertEqual(davis.boundary_accuracy(true, nothing), 0)
        self.assertEqual(davis.boundary_accuracy(nothing, nothing), 1)

    def test_boundary_accuracy_is_the_definition(self):
        rng = np.random.default_rng(0)
        for _ in range(5):
            predicted, true = (
                square(*rng.integers(0, 12, 2), rng.integers(4, 14)) for _ in range(2)
            )
            predicted, true = predicted ^ square(20, 20, 9), true ^ square(22, 19, 9)
            for bound in (0.008, 0.03):
                accuracy = davis.boundary_accuracy(predicted, true, bound)
                self.assertAlmostEqual(accuracy, brute_boundary(predicted, true, bound), places=12)


if __name__ == "__main__":
    absltest.main()
