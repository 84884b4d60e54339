from unittest import mock

import numpy as np
from absl.testing import absltest
from sklearn.metrics import average_precision_score

from ssl_jax.core.errors import UserError
from ssl_jax.evals.protocols import image_retrieval
from ssl_jax.evals.protocols.image_retrieval import retrieve


class ImageRetrievalTest(absltest.TestCase):
    def test_equals_scikit_learn(self):
        draw = np.random.default_rng(0)
        gallery, queries = draw.normal(size=(60, 5)), draw.normal(size=(17, 5))
        labels, query_labels = draw.integers(0, 4, 60), draw.integers(0, 4, 17)
        unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
        cosine = unit(queries) @ unit(gallery).T
        expected = np.mean(
            [
                average_precision_score(labels == c, row)
                for row, c in zip(cosine, query_labels, strict=True)
            ]
        )
        nearest = labels[np.argsort(-cosine, 1)[:, :3]]
        recall = np.mean((nearest == query_labels[:, None]).any(1))
        for elements in (60 * 17, 60 * 5, 1):
            with mock.patch.object(image_retrieval, "TILE_ELEMENTS", elements):
                precision, at = retrieve(gallery, labels, 3 * queries, query_labels, (3,))
            self.assertAlmostEqual(precision, expected, places=6)
            self.assertAlmostEqual(at[3], recall)

    def test_a_perfect_and_a_reversed_ranking(self):
        gallery = np.array([[1, 0.0], [1, 0.1], [0, 1.0], [0.1, 1]])
        labels = np.array([0, 0, 1, 1])
        self.assertEqual(retrieve(gallery, labels, gallery, labels, (1,)), (1.0, {1: 1.0}))
        precision, recall = retrieve(gallery, labels, gallery, 1 - labels, (1, 2, 3))
        self.assertAlmostEqual(precision, (1 / 3 + 2 / 4) / 2, places=6)
        self.assertEqual(recall, {1: 0.0, 2: 0.0, 3: 1.0})

    def test_queries_without_an_image_of_their_class_do_not_count(self):
        eye = np.eye(3)
        self.assertEqual(retrieve(eye, np.arange(3), eye, np.array([0, 1, 7]), (1,))[0], 1.0)
        with self.assertRaisesRegex(UserError, "no test image has"):
            retrieve(eye, np.arange(3), eye, np.arange(3) + 5)


if __name__ == "__main__":
    absltest.main()
