import numpy as np
from absl.testing import absltest

from ssl_jax.evals.protocols.retrieval import distinct, owners, recall


class RetrievalTest(absltest.TestCase):
    def test_one_hot_pairs(self):
        eye = np.eye(6)
        own = [[i] for i in range(6)]
        self.assertEqual(recall(eye, eye, own, k=1), 1)
        self.assertEqual(recall(eye, np.roll(eye, 1, 0), own, k=1), 0)
        self.assertEqual(recall(3 * eye, 0.2 * eye, own, k=1), 1)

    def test_any_of_an_image_s_own(self):
        texts = np.array([[1.0, 0], [0.9, 0.1], [0, 1.0]])
        images = np.array([[1.0, 0.0], [0.6, 0.8]])
        self.assertEqual(recall(images, texts, [[1, 2], [0]], k=1), 0)
        self.assertEqual(recall(images, texts, [[1, 2], [0]], k=2), 0.5)
        self.assertEqual(recall(images, texts, [[1, 2], [0]], k=3), 1)

    def test_of_equal_texts_the_first_come_first(self):
        texts = np.ones((20, 3))
        own = [[i] for i in range(20)]
        self.assertEqual(recall(np.ones((20, 3)), texts, own, k=10), 0.5)

    def test_the_other_way_round(self):
        own = [[0, 1], [1]]
        self.assertEqual(owners(own, 3), [[0], [0, 1], []])
        images, texts = np.array([[1.0, 0], [0, 1.0]]), np.array([[0.0, 1], [1, 0.0], [0.0, 1]])
        text_to_image = recall(texts, images, owners([[0, 1], [2]], 3), k=1)
        self.assertAlmostEqual(text_to_image, 2 / 3)

    def test_equal_captions_are_one(self):
        texts, own = distinct([("a", "b"), ("b", "c"), ("a",)])
        self.assertEqual(texts, ["a", "b", "c"])
        self.assertEqual(own, [[0, 1], [1, 2], [0]])


if __name__ == "__main__":
    absltest.main()
