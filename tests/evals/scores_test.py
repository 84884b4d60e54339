"""Accuracies against scikit-learn's and by hand."""

import numpy as np
from absl.testing import absltest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from ssl_jax.evals.scores import accuracies, guesses_of


class AccuraciesTest(absltest.TestCase):
    def test_as_scikit_learn_has_it(self):
        rng = np.random.default_rng(0)
        labels = rng.choice(9, 400, p=np.arange(9) / 36)  # class 0 does not occur
        predicted = np.where(rng.random(400) < 0.6, labels, rng.integers(1, 9, 400))
        result = accuracies(predicted, labels, "x")
        self.assertAlmostEqual(result["x_top1"], np.mean(predicted == labels))
        self.assertAlmostEqual(
            result["x_mean_per_class"], balanced_accuracy_score(labels, predicted)
        )

    def test_five_guesses(self):
        rng = np.random.default_rng(0)
        scores, labels = rng.normal(size=(300, 8)), rng.integers(0, 8, 300)
        result = accuracies(np.argsort(-scores, axis=1)[:, : guesses_of(8)], labels, "x")
        self.assertAlmostEqual(result["x_top1"], top_k_accuracy_score(labels, scores, k=1))
        self.assertAlmostEqual(result["x_top5"], top_k_accuracy_score(labels, scores, k=5))
        few = accuracies(np.argsort(-scores, axis=1)[:, : guesses_of(5)], labels, "x")
        self.assertEqual(set(few), {"x_top1", "x_mean_per_class"})

    def test_absent_classes_do_not_count(self):
        labels = np.array([0, 0, 0, 5])
        result = accuracies(np.array([0, 0, 3, 5]), labels, "x")
        self.assertEqual(result["x_top1"], 0.75)
        self.assertAlmostEqual(result["x_mean_per_class"], (2 / 3 + 1) / 2)


if __name__ == "__main__":
    absltest.main()
