"""Pairs and groups of near copies, compared with all pairs; slight changes of images."""

from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.embeddings import near_copies, neighbors
from ssl_jax.embeddings.near_copies import choose_threshold, groups, near_pairs, slight_changes


class NearCopiesTest(parameterized.TestCase):
    def test_pairs_are_all_pairs_above_the_threshold(self):
        rows = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        rows[7], rows[40] = 3 * rows[3], rows[3]
        with mock.patch.object(neighbors, "CHUNK_BYTES", 16 * 25):  # blocks of 25 rows
            pairs = near_pairs(rows, 59, 0.9)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = unit @ unit.T
        first, second = np.nonzero(np.triu(cosines >= 0.9, 1))
        self.assertGreater(len(first), 5)
        np.testing.assert_array_equal(pairs.first, first)
        np.testing.assert_array_equal(pairs.second, second)
        np.testing.assert_allclose(pairs.cosine, cosines[first, second], atol=1e-5)

    def test_more_equal_rows_than_neighbours_are_one_group(self):
        rows = np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32)
        rows[10:25] = rows[10]
        pairs = near_pairs(rows, 3, 0.999)
        (group,) = groups(len(rows), pairs.first, pairs.second)
        np.testing.assert_array_equal(group, np.arange(10, 25))

    def test_groups_are_connected_and_the_largest_comes_first(self):
        parts = groups(9, np.array([1, 2, 7, 4]), np.array([8, 5, 8, 6]))
        self.assertEqual([part.tolist() for part in parts], [[1, 7, 8], [2, 5], [4, 6]])
        self.assertEqual(groups(5, np.array([], int), np.array([], int)), [])

    @parameterized.parameters(1, 3, 6)
    def test_slight_changes(self, channels):
        grid = np.indices((24, 24)).sum(0)[..., None]
        image = (2 * grid + 3 * np.arange(channels) + 60).astype(np.uint8)
        changes = slight_changes(image)
        self.assertLen(changes, 3 if channels < 6 else 2)
        for change in changes:
            self.assertEqual((change.shape, change.dtype), (image.shape, np.uint8))
            difference = np.abs(change.astype(int) - image)
            self.assertBetween(difference.mean(), 0.01, 20)

    @parameterized.parameters((0.1, False), (10.0, True))
    def test_the_threshold_is_the_larger_of_both(self, spread, of_copies):
        """An encoder that returns its pixels; random images that are alike, or not."""
        draw = np.random.default_rng(0)
        images = draw.integers(60, 200, (20, 8, 8, 1), dtype=np.uint8)
        others = 1 + spread * draw.normal(size=(200, 16))

        def pixels(encoder, crops, mesh):
            return crops.reshape(len(crops), -1).astype(np.float32)

        with mock.patch.object(near_copies, "_features", pixels):
            chosen = choose_threshold(mock.Mock(), images, others, mock.Mock())
        self.assertEqual(chosen.value, max(chosen.copies, chosen.others))
        self.assertEqual(chosen.copies > chosen.others, of_copies)
        self.assertBetween(chosen.copies, 0.9, 1)


if __name__ == "__main__":
    absltest.main()
