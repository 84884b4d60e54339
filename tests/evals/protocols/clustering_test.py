"""Cluster agreement against Self-Classifier's code and scikit-learn; k-means."""

from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from sklearn.cluster import KMeans

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols import clustering
from ssl_jax.evals.protocols.clustering import Clustering, agreement, assign_clusters, kmeans
from ssl_jax.objectives.base import Probe

GOLDEN = Path(__file__).parents[2] / "golden"


class AgreementTest(parameterized.TestCase):
    @parameterized.parameters("", "_over")
    def test_golden(self, suffix):
        data = np.load(GOLDEN / "cluster_metrics.npz")
        clusters, labels = data[f"in_pred{suffix}"], data["in_targets"]
        out = agreement(clusters, labels)
        np.testing.assert_allclose(out.acc, data[f"out_acc{suffix}"], rtol=1e-6)
        for key in ("nmi", "ami", "ari"):
            np.testing.assert_allclose(getattr(out, key), data[f"out_{key}{suffix}"], rtol=1e-9)
        classes = assign_clusters(clusters, labels)
        np.testing.assert_array_equal(classes, data[f"out_reassignment{suffix}"])

    def test_names_of_clusters_do_not_matter(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 5, 200)
        clusters = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 5, 200))
        renamed = rng.permutation(5)[clusters]
        np.testing.assert_allclose(agreement(renamed, labels), agreement(clusters, labels))
        np.testing.assert_allclose(agreement(renamed, renamed[::-1][::-1]), 1.0)

    def test_random_clusters_agree_by_chance_only(self):
        rng = np.random.default_rng(0)
        out = agreement(rng.integers(0, 4, 4000), rng.integers(0, 4, 4000))
        self.assertBetween(out.acc, 0.25, 0.29)
        self.assertLess(max(abs(out.ami), abs(out.ari)), 0.01)

    def test_fewer_clusters_than_classes(self):
        labels = np.array([0, 0, 0, 1, 1, 2])
        self.assertAlmostEqual(agreement(np.array([1, 1, 1, 0, 0, 0]), labels).acc, 5 / 6)
        self.assertAlmostEqual(agreement(np.zeros(6, int), labels).acc, 0.5)

    def test_split_classes_are_right_by_majority(self):
        labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
        clusters = np.array([0, 0, 1, 1, 2, 2, 3, 3])
        self.assertEqual(agreement(clusters, labels).acc, 1.0)


class KMeansTest(parameterized.TestCase):
    def test_finds_separate_blobs_and_is_deterministic(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 90)
        points = (10 * np.eye(3)[labels] + rng.normal(size=(90, 3))).astype(np.float32)
        clusters = kmeans(points, 3, seed=1)
        self.assertEqual(agreement(clusters, labels).acc, 1.0)
        np.testing.assert_array_equal(kmeans(points, 3, seed=1), clusters)

    def test_standardize_lets_small_dimensions_count(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, 200)
        signal, noise = 0.01 * (labels + 0.05 * rng.normal(size=200)), 100 * rng.normal(size=200)
        points = np.stack([signal, noise, np.ones(200)], axis=1).astype(np.float32)
        self.assertLess(agreement(kmeans(points, 2), labels).acc, 0.7)
        scaled = kmeans(np.stack([signal, 1e-3 * noise], axis=1), 2, standardize=True)
        self.assertEqual(len(np.unique(scaled)), 2)
        far = points.copy()
        far[:, 1] = rng.choice([-1, 1], 200) * 1e-6 * rng.random(200)
        self.assertEqual(agreement(kmeans(far, 2, standardize=True), labels).acc, 1.0)

    @parameterized.parameters(0, 6)
    def test_bad_number(self, clusters):
        with self.assertRaisesRegex(UserError, f"{clusters} clusters of 5 examples"):
            kmeans(np.zeros((5, 2)), clusters)

    @parameterized.parameters(
        ({}, 3), ({"factor": 2.0}, 6), ({"factor": 0.1}, 1), ({"clusters": 5, "factor": 2.0}, 5)
    )
    def test_over_and_under_clustering(self, settings, clusters):
        labels = np.arange(30) % 3
        images = np.arange(120, dtype=np.uint8).reshape(30, 2, 2, 1)
        source = ArraySource("x", images, labels)
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
        how = {"view": View(2), "channels": 1, "batch_size": 8, "mesh": mesh}
        subject = Subject(None, Images.of(source, source, 100, 100, **how), Probe())
        model = mock.Mock(labels_=labels)
        with mock.patch.object(clustering, "fit_kmeans", return_value=model) as kmeans:
            numbers = Clustering(runs=1, **settings).measure(subject)
        self.assertEqual(kmeans.call_args.args[1], clusters)
        self.assertEqual(numbers["kmeans_acc"], 1)
        self.assertNotIn("kmeans_super_acc", numbers)

    @parameterized.parameters("standard", "unit", "none")
    def test_test_images_go_to_the_nearest_centre(self, scaling):
        """By scikit-learn's own prediction."""
        rng = np.random.default_rng(0)

        def source(count):
            labels = np.arange(count) % 3
            images = rng.integers(0, 99, (count, 2, 2, 1)) + 50 * labels[:, None, None, None]
            return ArraySource("x", images.astype(np.uint8), labels)

        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
        how = {"view": View(2), "channels": 1, "batch_size": 8, "mesh": mesh}
        subject = Subject(None, Images.of(source(60), source(24), 99, 99, **how), Probe())
        setting = Clustering(runs=1, part="test", scaling=scaling)
        train, test = subject.train(setting), subject.test(setting)
        x, y = train.features.astype(np.float64), test.features.astype(np.float64)
        if scaling == "standard":
            x, y = ((a - train.features.mean(0)) / train.features.std(0) for a in (x, y))
        elif scaling == "unit":
            x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
        clusters = KMeans(3, n_init=1, random_state=0).fit(x).predict(y)
        numbers = setting.measure(subject)
        self.assertAlmostEqual(numbers["kmeans_acc"], agreement(clusters, test.labels).acc)
        self.assertAlmostEqual(numbers["kmeans_ari"], agreement(clusters, test.labels).ari)


if __name__ == "__main__":
    absltest.main()
