"""Average precision by VOC's two formulas, written out, and its mean over classes."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.evals.average_precision import (
    average_precision,
    eleven_points,
    mean_average_precision,
)
from ssl_jax.evals.checks import NotMeasurable


def voc_2007(scores, positive):
    """Compute it as the VOC devkit's `VOCevaldet.m` does: the best precision at 11 recalls."""
    hits = np.cumsum(positive[np.argsort(-scores, kind="stable")])
    recall, precision = hits / hits[-1], hits / np.arange(1, len(scores) + 1)
    best = [precision[recall >= t - 1e-9].max(initial=0) for t in np.linspace(0, 1, 11)]
    return np.mean(best)


class ElevenPointsTest(parameterized.TestCase):
    @parameterized.parameters(
        ([1, 1, 0, 0], 1.0),
        ([0, 0, 1, 1], 0.5),
        ([1, 0, 0, 1], (6 * 1 + 5 * 0.5) / 11),  # recalls 0 to 0.5 at 1, the others at 2/4
        ([0, 1, 1, 0, 1], (7 * 2 / 3 + 4 * 3 / 5) / 11),  # up to 2/3 the second hit is best
    )
    def test_closed_forms(self, order, expected):
        positive = np.array(order, bool)
        self.assertAlmostEqual(eleven_points(np.arange(len(order), 0, -1.0), positive), expected)

    def test_written_out(self):
        draw = np.random.default_rng(0)
        for count in (7, 10, 30, 100):
            positive = draw.permutation(count) < 0.3 * count
            scores = draw.normal(size=count) + positive
            self.assertAlmostEqual(
                eleven_points(scores, positive), voc_2007(scores, positive), places=12
            )


class MeanTest(absltest.TestCase):
    def test_over_the_classes(self):
        draw = np.random.default_rng(1)
        targets, scores = draw.integers(0, 2, (40, 3)), draw.normal(size=(40, 3))
        numbers = mean_average_precision(scores, targets, "x")
        each = [average_precision(scores[:, c], targets[:, c] == 1) for c in range(3)]
        self.assertAlmostEqual(numbers["x_map"], np.mean(each))
        each = [eleven_points(scores[:, c], targets[:, c] == 1) for c in range(3)]
        self.assertAlmostEqual(numbers["x_11point"], np.mean(each))

    def test_what_is_not_known_is_in_no_ranking(self):
        targets = np.array([[1, 1], [-1, 0], [0, 0], [1, 0], [0, 0]])
        scores = np.array([[4.0, 5], [9, 4], [3, 3], [2, 2], [1, 1]])
        expected = average_precision(scores[[0, 2, 3, 4], 0], targets[[0, 2, 3, 4], 0] == 1)
        numbers = mean_average_precision(scores, targets, "x")
        self.assertAlmostEqual(numbers["x_map"], (expected + 1) / 2)

    def test_a_class_without_a_positive_does_not_count(self):
        targets, scores = np.array([[1, 0], [0, 0], [0, -1]]), np.arange(6.0)[::-1].reshape(3, 2)
        self.assertEqual(mean_average_precision(scores, targets, "x")["x_map"], 1.0)
        with self.assertRaisesRegex(NotMeasurable, "no evaluation image shows any class"):
            mean_average_precision(scores, 0 * targets, "x")

    def test_no_score(self):
        targets, scores = np.array([[1, 0], [0, 1]]), np.ones((2, 2))
        for wrong in (scores, np.array([[0, 1], [np.nan, 0]])):
            numbers = mean_average_precision(wrong, targets, "x")
            self.assertEqual(set(numbers), {"x_map", "x_11point"})
            self.assertTrue(all(map(math.isnan, numbers.values())))


if __name__ == "__main__":
    absltest.main()
