"""Rankings against the released evaluation code, written out, and by hand; whitening."""

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.ranking import cosines, revisited, trapezoid_precision, whitened


def reference_map(order, wanted, ignored, at):
    """Compute what revisitop's `compute_map` does: positions move up by the junk before them."""
    results = []
    for ranking, positives, junk in zip(order, wanted, ignored, strict=True):
        if not positives:
            continue
        places = [p for p, image in enumerate(ranking) if image in positives]
        places = [p - sum(image in junk for image in ranking[:p]) for p in places]
        area = 0.0
        for j, rank in enumerate(places):
            before = 1.0 if rank == 0 else j / rank
            area += (before + (j + 1) / (rank + 1)) / (2 * len(positives))
        precisions = []
        for k in at:
            last = min(max(places) + 1, k)
            precisions.append(sum(p + 1 <= last for p in places) / last)
        results.append([area, *precisions])
    return np.mean(results, axis=0)


class RankingTest(parameterized.TestCase):
    @parameterized.parameters(
        ([0, 1, 2], 3, 1.0),
        ([], 2, 0.0),
        ([1], 1, (0 + 1 / 2) / 2),
        ([0, 3], 2, (1 + (1 / 3 + 2 / 4) / 2) / 2),
        ([0], 2, 0.5),  # the other is not ranked
    )
    def test_closed_forms(self, ranks, positives, expected):
        self.assertAlmostEqual(trapezoid_precision(np.array(ranks, int), positives), expected)

    def test_revisited_as_in_its_code(self):
        rng = np.random.default_rng(0)
        similarity, truth = rng.normal(size=(12, 40)), []
        for _ in range(12):
            images = rng.permutation(40)
            a, b, c = rng.integers(0, 5, 3)
            split = np.split(images, np.cumsum([a, b, c]))[:3]
            truth.append(dict(zip(("easy", "hard", "junk"), map(list, split), strict=True)))
        numbers = revisited(similarity, truth)
        order = np.argsort(-similarity, axis=1)
        kinds = {
            "easy": (["easy"], ["junk", "hard"]),
            "medium": (["easy", "hard"], ["junk"]),
            "hard": (["hard"], ["junk", "easy"]),
        }
        for name, (wanted, ignored) in kinds.items():
            sets = [
                [{i for kind in some for i in t[kind]} for t in truth] for some in (wanted, ignored)
            ]
            area, *precisions = reference_map(order, *sets, (1, 5, 10))
            self.assertAlmostEqual(numbers[f"{name}_map"], area, places=12)
            for k, precision in zip((1, 5, 10), precisions, strict=True):
                self.assertAlmostEqual(numbers[f"{name}_mp{k}"], precision, places=12)

    def test_junk_before_the_positives_changes_nothing(self):
        truth = [{"easy": [0], "hard": [1], "junk": [2, 3]}]
        for similarity in ([[2.0, 1, 0, -1]], [[2.0, 1, 9, 8]]):
            numbers = revisited(np.array(similarity), truth)
            self.assertEqual(numbers["medium_map"], 1.0)
            self.assertEqual(numbers["hard_map"], 1.0)  # the easy image is ignored
        with self.assertRaisesRegex(NotMeasurable, "no query has an image"):
            revisited(np.ones((1, 4)), [{"easy": [], "hard": [], "junk": [1]}])

    def test_a_query_without_a_hard_image_does_not_count(self):
        truth = [{"easy": [0], "hard": [], "junk": []}, {"easy": [], "hard": [1], "junk": []}]
        numbers = revisited(np.array([[0.0, 1], [1, 0]]), truth)
        self.assertEqual(numbers["easy_map"], numbers["hard_map"])
        self.assertAlmostEqual(numbers["easy_map"], 0.25)

    def test_whitening(self):
        rng = np.random.default_rng(0)
        mixing = rng.normal(size=(3, 3))
        others = rng.normal(size=(5000, 3)) @ mixing
        rows = whitened(others, others)
        np.testing.assert_allclose(np.cov(rows.T), np.eye(3), atol=0.02)
        # A direction in which the others do not vary is not blown up.
        flat = np.concatenate([others[:, :2], np.zeros((5000, 1))], axis=1)
        moved = np.add(flat[:1], [[0, 0, 1]])
        self.assertLess(np.abs(whitened(moved, flat)).max(), 1e3)
        with self.assertRaisesRegex(UserError, "1 image to learn from"):
            whitened(others, others[:1])

    def test_cosines(self):
        np.testing.assert_allclose(
            cosines(np.array([[3.0, 0], [0, 0]]), np.array([[1.0, 0], [1, 1]])),
            [[1, np.sqrt(0.5)], [0, 0]],
        )


if __name__ == "__main__":
    absltest.main()
