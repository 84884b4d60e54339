"""Average precision against closed forms; the SVMs against the protocol written out."""

import numpy as np
from absl.testing import absltest, parameterized
from sklearn.svm import LinearSVC

from ssl_jax.core.errors import UserError
from ssl_jax.evals.average_precision import average_precision
from ssl_jax.evals.images import Labelled
from ssl_jax.evals.protocols.svm import Svm, choose_cost, svm_map


def blobs(count, seed, classes=3, spread=0.7):
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, 4))
    points = centres[labels] + spread * draw.normal(size=(count, 4))
    return Labelled(points.astype(np.float32), labels)


def by_hand(scores, positive):
    """Compute it as VOC does: a point per image in order of its score, then the envelope's area."""
    hits = np.cumsum(positive[np.argsort(-scores, kind="stable")])
    recall = np.concatenate([[0], hits / hits[-1], [1]])
    precision = np.concatenate([[0], hits / np.arange(1, len(scores) + 1), [0]])
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(np.diff(recall))
    return np.sum((recall[steps + 1] - recall[steps]) * precision[steps + 1])


class AveragePrecisionTest(parameterized.TestCase):
    @parameterized.parameters(
        ([1, 1, 0, 0], 1.0),  # perfect
        ([0, 0, 1, 1], 0.5),  # 1/3 at the first, but 2/4 later: the envelope is 1/2
        ([0, 1, 0, 0], 0.5),
        ([1, 0, 0, 1], 0.75),
        ([1, 0, 1, 1], (1 + 0.75 + 0.75) / 3),  # 2/3 at the second lies below 3/4 at the third
    )
    def test_closed_forms(self, order, expected):
        positive = np.array(order, bool)
        self.assertAlmostEqual(average_precision(np.arange(4, 0, -1.0), positive), expected)

    def test_written_out(self):
        draw = np.random.default_rng(0)
        for _ in range(20):
            positive = draw.random(50) < 0.3
            scores = draw.normal(size=50) + positive
            expected = by_hand(scores, positive)
            self.assertAlmostEqual(average_precision(scores, positive), expected, places=12)

    def test_a_constant_score_is_worth_the_share_of_positives(self):
        positive = np.arange(10) < 3
        self.assertAlmostEqual(average_precision(np.zeros(10), positive), 0.3)


class SvmTest(parameterized.TestCase):
    def test_one_cost_written_out(self):
        train, test = blobs(30, 0), blobs(60, 1)
        unit = lambda x: x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)  # noqa: E731
        precisions = []
        for c in range(3):
            machine = LinearSVC(C=0.5, class_weight={-1: 1, 1: 2}, random_state=0, max_iter=2000)
            machine.fit(unit(train.features), np.where(train.labels == c, 1, -1))
            scores = machine.decision_function(unit(test.features))
            precisions.append(by_hand(scores, test.labels == c))
        self.assertAlmostEqual(svm_map(train, test, [0.5]), np.mean(precisions), places=6)

    def test_separate_classes_are_ranked_perfectly(self):
        precision = svm_map(blobs(30, 0, spread=0.01), blobs(30, 1, spread=0.01), [1.0])
        self.assertAlmostEqual(precision, 1.0, places=12)

    def test_the_cost_is_chosen_by_folds(self):
        train = blobs(60, 0, spread=1.5)
        positive = train.labels == 0
        # Such a small C leaves all weights at 0 except for rounding.
        self.assertEqual(choose_cost(train.features, positive, [1e-12, 1.0]), 1.0)
        self.assertEqual(choose_cost(train.features, np.arange(60) == 0, [7.0, 9.0]), 1.0)
        self.assertEqual(choose_cost(train.features, positive, [7.0]), 7.0)

    def test_classes_of_one_set_only(self):
        train, test = blobs(30, 0, spread=0.01), blobs(60, 1, spread=0.01)
        without = Labelled(*(x[test.labels != 2] for x in test))
        # The third is left out of the mean.
        self.assertAlmostEqual(svm_map(train, without, [1.0]), 1.0, places=12)
        renumbered = Labelled(test.features, np.where(test.labels == 2, 5, test.labels))
        self.assertAlmostEqual(svm_map(train, renumbered, [1.0]), (1 + 1 + 1 / 3) / 3)
        with self.assertRaisesRegex(UserError, "one class only"):
            svm_map(Labelled(train.features, 0 * train.labels), test, [1.0])

    @parameterized.parameters({"shots": (0,)}, {"draws": 0}, {"costs": ()}, {"costs": (0.0,)})
    def test_bad_settings(self, **settings):
        with self.assertRaisesRegex(UserError, "svm(: give costs|.* expected)"):
            Svm(**settings)
        with self.assertRaisesRegex(UserError, "give shots"):
            Svm(shots=(), full=False)


if __name__ == "__main__":
    absltest.main()
