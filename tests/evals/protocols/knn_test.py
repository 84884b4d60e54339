"""Weighted kNN against DINO's code, scikit-learn, and its own invariances."""

from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from sklearn.neighbors import KNeighborsClassifier

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.evals import neighbours
from ssl_jax.evals.protocols import knn

GOLDEN = Path(__file__).parents[2] / "golden"


def blobs(n, seed=0, classes=4, dim=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    return (centres[labels] + rng.normal(size=(n, dim))).astype(np.float32), labels


class KnnTest(parameterized.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "knn_dino.npz")
        train, test = data["in_train"], data["in_test"]
        ks, temperature = data["hp_k"].tolist(), float(data["hp_T"])
        common = (train, data["in_train_labels"], test)
        classes = int(data["hp_num_classes"])
        probs = knn.knn_probabilities(*common, classes, ks, [temperature])[:, 0]
        scores = data["out_scores"]
        np.testing.assert_allclose(
            probs, scores / scores.sum(-1, keepdims=True), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(probs.argmax(-1), data["out_pred"][..., 0])
        accuracy = knn.knn_accuracy(*common, data["in_test_labels"], classes, ks, [temperature])
        for k, percent in zip(ks, data["out_top1"], strict=True):
            self.assertAlmostEqual(100 * accuracy[k, temperature], percent, places=9)

    def test_equals_scikit_learn(self):
        (train, y), (test, _) = blobs(80), blobs(30, 1)
        unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
        model = KNeighborsClassifier(7, weights=lambda d: np.exp((1 - d**2 / 2) / 0.2))
        expected = model.fit(unit(train), y).predict_proba(unit(test))
        probs = knn.knn_probabilities(train, y, test, 4, [7], [0.2])[0, 0]
        np.testing.assert_allclose(probs, expected, rtol=1e-4, atol=1e-6)

    def test_tiles_do_not_change_the_result(self):
        (train, y), (test, z) = blobs(50), blobs(23, 1)
        args = (train, y, test, 4, [3, 10], [0.07, 0.5])
        whole = knn.knn_probabilities(*args)
        self.assertEqual(whole.shape, (2, 2, 23, 4))
        scored = knn.knn_accuracy(train, y, test, z, *args[3:])
        mesh = sharding.make_mesh(sharding.MeshConfig(data=8), jax.devices())
        for columns, elements, over in (
            (50, 300, None),
            (7, 28, None),
            (16, 1, None),
            (7, 28, mesh),
        ):
            with (
                mock.patch.object(neighbours, "TRAIN_ROWS", columns),
                mock.patch.object(neighbours, "CPU_TILE_ELEMENTS", elements),
            ):
                tiled = knn.knn_probabilities(*args, over)
                np.testing.assert_allclose(tiled, whole, rtol=1e-5)
                self.assertEqual(knn.knn_accuracy(train, y, test, z, *args[3:], over), scored)
        for i, k in enumerate((3, 10)):
            for j, t in enumerate((0.07, 0.5)):
                share = np.mean(whole[i, j].argmax(-1) == z)
                self.assertAlmostEqual(scored[k, t], share)
                alone = knn.knn_probabilities(*args[:4], [k], [t])[0, 0]
                np.testing.assert_allclose(alone, whole[i, j], rtol=1e-5)

    def test_of_equally_near_rows_the_earlier_ones_are_taken(self):
        train, labels = np.ones((9, 2), np.float32), np.arange(9)
        for columns in (9, 4, 1):
            with mock.patch.object(neighbours, "TRAIN_ROWS", columns):
                (shares,) = knn.knn_probabilities(train, labels, train[:1], 9, [3])[0, 0]
                np.testing.assert_allclose(shares, [1 / 3] * 3 + [0] * 6, atol=1e-6)

    def test_itself_is_the_nearest(self):
        train, y = blobs(40)
        self.assertEqual(knn.knn_accuracy(train, y, train, y, 4, [1])[1, 0.07], 1.0)

    def test_hot_temperature_is_a_majority_vote(self):
        (train, y), (test, _) = blobs(40), blobs(10, 1)
        probs = knn.knn_probabilities(train, y, test, 4, [8], [1e6])
        np.testing.assert_allclose(probs * 8, np.round(probs * 8), atol=1e-4)

    def test_scale_does_not_matter_and_cold_votes_do_not_overflow(self):
        (train, y), (test, _) = blobs(40), blobs(10, 1)
        one = knn.knn_probabilities(train, y, test, 4, [8], [0.005])
        self.assertTrue(np.all(np.isfinite(one)))
        other = knn.knn_probabilities(7 * train, y, 0.1 * test, 4, [8], [0.005])
        np.testing.assert_allclose(other, one, atol=1e-4)

    def test_a_doubled_gallery_leaves_the_shares(self):
        (train, y), (test, _) = blobs(40), blobs(10, 1)
        twice = knn.knn_probabilities(np.tile(train, (2, 1)), np.tile(y, 2), test, 4, [10])
        np.testing.assert_allclose(
            twice, knn.knn_probabilities(train, y, test, 4, [5]), rtol=1e-4, atol=1e-6
        )

    @parameterized.parameters(
        ([0], [0.07], "expected k between"),
        ([41], [0.07], "expected k between"),
        ([3], [0.0], "positive"),
    )
    def test_bad_settings(self, k, temperature, message):
        train, y = blobs(40)
        with self.assertRaisesRegex(UserError, message):
            knn.knn_accuracy(train, y, train, y, 4, k, temperature)


if __name__ == "__main__":
    absltest.main()
