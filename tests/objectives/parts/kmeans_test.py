"""k-means and whitening on the devices: against NumPy, in blocks, and split over eight devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.cost.hlo import collectives
from ssl_jax.objectives.parts.kmeans import count, kmeans, nearest, pca_whiten, totals

RUN = jax.jit(kmeans, static_argnames=("clusters", "iterations", "spherical", "empty", "block"))


def blobs(rows=1024, real=900, centres=7, dim=5, seed=0):
    """Points around well-separated centres, with padding that lies far away; and their blobs."""
    draw = np.random.default_rng(seed)
    blob = draw.integers(0, centres, rows)
    points = 20 * draw.normal(size=(centres, dim))[blob] + draw.normal(size=(rows, dim))
    present = np.arange(rows) < real
    points[~present] = 1e3
    return points.astype(np.float32), present, blob


def lloyd(points, centroids, iterations):
    """Run k-means in NumPy; an empty cluster keeps its centroid."""
    for _ in range(iterations):
        label = ((points[:, None] - centroids) ** 2).sum(-1).argmin(1)
        centroids = np.stack(
            [points[label == k].mean(0) if (label == k).any() else c
             for k, c in enumerate(centroids)]
        )  # fmt: skip
    distances = ((points[:, None] - centroids) ** 2).sum(-1)
    return centroids, distances.argmin(1), distances.min(1).mean()


class KmeansTest(parameterized.TestCase):
    @parameterized.parameters(1, 4)
    def test_as_in_numpy(self, iterations):
        points, present, _ = blobs()
        key = jax.random.key(1)
        start = RUN(points, present, 7, key, iterations=0)
        clustering = RUN(points, present, 7, key, iterations=iterations, empty="keep")
        centroids, labels, cost = lloyd(points[present], np.asarray(start.centroids), iterations)
        np.testing.assert_allclose(clustering.centroids, centroids, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(clustering.assignments[present], labels)
        np.testing.assert_array_equal(clustering.counts, np.bincount(labels, minlength=7))
        np.testing.assert_allclose(clustering.cost, cost, rtol=1e-3)

    def test_it_starts_from_distinct_present_points(self):
        points, present, _ = blobs()
        start = RUN(points, present, 60, jax.random.key(2), iterations=0).centroids
        rows = {tuple(p): i for i, p in enumerate(points[present])}
        self.assertLen({rows[tuple(c)] for c in np.asarray(start)}, 60)

    @parameterized.product(spherical=(False, True), empty=("split", "keep"))
    def test_the_cost_never_rises(self, spherical, empty):
        points, present, _ = blobs(centres=20)
        if spherical:
            points /= np.linalg.norm(points, axis=1, keepdims=True)
        key = jax.random.key(0)
        run = functools.partial(RUN, points, present, 12, key, spherical=spherical, empty=empty)
        costs = [float(run(iterations=i).cost) for i in range(8)]
        self.assertLessEqual(max(np.diff(costs)), 1e-5 * costs[0])
        self.assertLess(costs[-1], 0.95 * costs[0])

    def test_spherical_centroids_are_unit_vectors(self):
        points, present, _ = blobs()
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        clustering = RUN(points, present, 9, jax.random.key(0), iterations=5, spherical=True)
        np.testing.assert_allclose(np.linalg.norm(clustering.centroids, axis=1), 1, rtol=1e-6)
        best = (points @ np.asarray(clustering.centroids).T).argmax(1)
        np.testing.assert_array_equal(clustering.assignments, best)

    def test_empty_clusters(self):
        """1024 points with only three distinct values: most clusters stay empty, nothing breaks."""
        points = np.eye(3, dtype=np.float32)[np.arange(1024) % 3]
        present = np.ones(1024, bool)
        for empty in ("split", "keep"):
            clustering = RUN(points, present, 8, jax.random.key(0), iterations=6, empty=empty)
            self.assertTrue(np.isfinite(clustering.centroids).all())
            self.assertEqual(int(clustering.counts.sum()), 1024)
            self.assertAlmostEqual(float(clustering.cost), 0, delta=1e-5)

    def test_splitting_finds_what_the_start_missed(self):
        """All starting points in one of four blobs, others empty: splits spread over it."""
        points, present, _ = blobs(centres=4)
        twice = np.concatenate([points, points])
        present = np.concatenate([present, present])
        keep = RUN(twice, present, 64, jax.random.key(0), iterations=15, empty="keep")
        split = RUN(twice, present, 64, jax.random.key(0), iterations=15, empty="split")
        self.assertGreaterEqual(int((split.counts > 0).sum()), int((keep.counts > 0).sum()))
        self.assertEqual(int((split.counts > 0).sum()), 64)

    @parameterized.parameters(1, 1024 * 3, 1024 * 5, 2**28)
    def test_blocks_change_nothing(self, block):
        points, present, _ = blobs()
        key = jax.random.key(0)
        whole = RUN(points, present, 11, key, iterations=4)
        parts = RUN(points, present, 11, key, iterations=4, block=block)
        np.testing.assert_array_equal(parts.assignments, whole.assignments)
        np.testing.assert_array_equal(parts.counts, whole.counts)
        np.testing.assert_allclose(parts.centroids, whole.centroids, rtol=1e-5, atol=1e-5)

    def test_of_equals_the_first(self):
        labels, _ = nearest(jnp.ones((4, 2)), jnp.ones((5, 2)), block=8)
        np.testing.assert_array_equal(labels, 0)

    def test_totals(self):
        points, present, _ = blobs()
        labels = np.arange(1024, dtype=np.int32) % 5
        sums, counts = totals(jnp.asarray(points), present, labels, 6, block=2048)
        for k in range(6):
            mine = (labels == k) & present
            np.testing.assert_allclose(sums[k], points[mine].sum(0), rtol=1e-4, atol=1e-3)
            self.assertEqual(int(counts[k]), mine.sum())
        np.testing.assert_array_equal(counts, count(labels, present, 6, block=2048))

    def test_split_over_devices(self):
        """Clusters equal those of one device; the data sent does not grow with the points."""
        points, present, _ = blobs(rows=8192, real=8000)
        run = functools.partial(kmeans, clusters=16, iterations=5, block=8192 * 5)
        key = jax.random.key(0)
        single = jax.jit(run)(points, present, key=key)
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:8])
        rows = sharding.batch_sharding(mesh)
        split = jax.jit(lambda p, there: run(p, there, key=key), in_shardings=rows)
        eight = split(points, present)
        np.testing.assert_array_equal(eight.assignments, single.assignments)
        np.testing.assert_allclose(eight.centroids, single.centroids, rtol=1e-4, atol=1e-4)
        sent = collectives(split.lower(points, present).compile().as_text())
        self.assertLessEqual(max(c.elements for c in sent if c.kind != "all-gather"), 16 * 6)
        # The start: one number a point, to find the first centroids.
        self.assertLessEqual(max(c.elements for c in sent), 8192)


class WhiteningTest(parameterized.TestCase):
    def test_the_covariance_is_the_identity(self):
        draw = np.random.default_rng(0)
        points = draw.normal(size=(1024, 8)) @ draw.normal(size=(8, 8)) + 3
        present = np.arange(1024) < 1000
        points[~present] = 77
        white = np.asarray(jax.jit(pca_whiten, static_argnums=2)(points, present, 5))
        np.testing.assert_allclose(white[~present], 0)
        white = white[present].astype(np.float64)
        np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(white.T @ white / 1000, np.eye(5), atol=1e-3)

    def test_the_first_components_are_taken(self):
        draw = np.random.default_rng(0)
        points = (draw.normal(size=(1024, 4)) * [1, 9, 3, 0.1]).astype(np.float32)
        white = pca_whiten(points, np.ones(1024, bool), 2)
        for column, source in enumerate((1, 2)):
            correlation = np.corrcoef(white[:, column], points[:, source])[0, 1]
            self.assertGreater(abs(correlation), 0.99)

    def test_features_that_are_always_zero_stay_small(self):
        points = np.random.default_rng(0).normal(size=(1024, 6)).astype(np.float32)
        points[:, 2:] = 0
        white = np.asarray(pca_whiten(points, np.ones(1024, bool), 6))
        self.assertTrue(np.isfinite(white).all())
        self.assertLess(np.abs(white[:, 2:]).max(), 1e-2)


if __name__ == "__main__":
    absltest.main()
