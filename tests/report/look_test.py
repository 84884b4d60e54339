"""Neighbours, maps and clusters against plain loops and closed forms."""

import numpy as np
from absl.testing import absltest

from ssl_jax.report import images, look, maps
from ssl_jax.report.look import Examples


def blobs(count: int, classes: int, seed: int = 0) -> Examples:
    """Classes far apart from each other, in features and in pixels."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    points = 0.05 * draw.normal(size=(count, 8)) + 3 * np.eye(8)[labels]
    pictures = draw.integers(0, 255, (count, 8, 8, 1)).astype(np.uint8)
    return Examples(pictures, points.astype(np.float32), points.astype(np.float32), labels)


class LookTest(absltest.TestCase):
    def test_neighbours_of_separate_classes_are_of_the_same_class(self):
        train, test = blobs(100, 5), blobs(50, 5, 1)
        rows = look.queries(test.labels)
        np.testing.assert_array_equal(test.labels[rows], np.arange(5))
        for near in look.neighbours(train, test, rows).values():
            self.assertEqual(near.same, 1.0)
            np.testing.assert_array_equal(train.labels[near.nearest[:, 0]], test.labels[rows])

    def test_without_labels_nothing_is_right_or_wrong(self):
        train = blobs(100, 5)._replace(labels=np.full(100, -1))
        rows = look.queries(train.labels)
        self.assertLen(rows, look.QUERIES)
        near = look.neighbours(train, train, rows)[look.FEATURES]
        self.assertIsNone(near.same)
        html = images.neighbours(near, train, train, ())
        self.assertNotIn(images.RIGHT, html)
        self.assertNotIn(images.WRONG, html)
        self.assertTrue(all(c.label == -1 for c in look.clusters(train, 0)))

    def test_several_labels_per_image(self):
        """Images are alike if they share a class; one without any is neither right nor wrong."""
        train, test = blobs(6, 3), blobs(3, 3, 1)
        several = np.eye(4, dtype=bool)[[0, 1, 2]]
        several[:, 3] = (True, False, False)
        train = train._replace(labels=np.full(6, -1), table=np.tile(several, (2, 1)))
        test = test._replace(labels=np.full(3, -1), table=several[[0, 1, 1]] & [[1], [1], [0]])
        columns = np.array([[0, 3, 1], [1, 4, 2], [0, 1, 2]])
        same = look.alike(test, np.arange(3), train, columns)
        np.testing.assert_array_equal(same, [[1, 1, 0], [1, 1, 0], [-1, -1, -1]])
        self.assertEqual(train.text(0, ("a", "b", "c", "d")), "a, d")
        near = look.neighbours(train, test, np.arange(3))[look.FEATURES]
        self.assertAlmostEqual(near.same, (2 + 2) / 12)  # all six, of two queries
        _, rows = images.neighbours(near, train, test, ("a", "b", "c", "d"))
        self.assertEqual(rows[0][0].text, "a, d")
        self.assertEqual([cell.right for cell in rows[0][1:]].count(True), 2)
        self.assertEqual({cell.right for cell in rows[2][1:]}, {None})

    def test_clusters_of_separate_classes_are_pure(self):
        clusters = look.clusters(blobs(100, 5), 5)
        self.assertEqual([cluster.size for cluster in clusters], [20] * 5)
        self.assertEqual(sorted(cluster.label for cluster in clusters), [0, 1, 2, 3, 4])
        self.assertTrue(all(cluster.purity == 1 for cluster in clusters))

    def test_a_map_keeps_groups_together_and_stays_in_its_frame(self):
        test = blobs(60, 3)
        places = look.flat_map(test.features, True)
        self.assertTrue(((places >= 0) & (places <= 1)).all())
        near = np.argsort(np.linalg.norm(places[:, None] - places, axis=-1), axis=1)[:, 1]
        np.testing.assert_array_equal(test.labels[near], test.labels)

    def test_a_map_of_equal_features_is_a_point(self):
        np.testing.assert_array_equal(look.flat_map(np.ones((20, 4)), True), 0.5)

    def test_markers_are_distinct(self):
        signs = {(maps.sign(i), maps.marker(i, 0, 0, 3)) for i in range(maps.MOST)}
        self.assertLen(signs, maps.MOST)

    def test_classes_beyond_the_markers_are_drawn_as_other(self):
        labels = np.arange(200) % 40
        svg = maps.scatter("x", np.random.default_rng(0).random((200, 2)), labels, list("a" * 40))
        self.assertEqual(svg.count("<title>"), maps.MOST)
        self.assertIn('class="other"', svg)


if __name__ == "__main__":
    absltest.main()
