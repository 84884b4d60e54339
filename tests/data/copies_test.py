"""Held-out parts: even over classes whatever their order, copies of one example on one side."""

from unittest import mock

import cv2
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.data.copies import held_out, identities, sample
from ssl_jax.data.sources import ArraySource, open_source
from ssl_jax.data.sources.mix import MixSource
from ssl_jax.data.subset import Subset, fold


def pictures(labels, seed=0):
    draw = np.random.default_rng(seed)
    return ArraySource(
        f"set{seed}", draw.integers(0, 256, (len(labels), 4, 4, 1), np.uint8), np.asarray(labels)
    )


class CopiesTest(parameterized.TestCase):
    # In turns, one after another, at random; 5 divides the number of classes.
    @parameterized.parameters("turns", "blocks", "random", "tens")
    def test_a_fifth_of_every_class(self, order):
        labels = {
            "turns": np.arange(600) % 10,
            "blocks": np.arange(600) // 60,
            "random": np.random.default_rng(0).permutation(np.arange(600) % 10),
            "tens": np.arange(600) // 5 % 10,
        }[order]
        source = pictures(labels)
        held = held_out(source)
        np.testing.assert_array_equal(np.bincount(labels[held]), [12] * 10)
        np.testing.assert_array_equal(held, held_out(source))
        self.assertTrue((held != held_out(source, seed=1)).any())

    @parameterized.parameters(
        ([0] * 50, 10),  # one class
        (np.arange(50), 10),  # as many classes as images
        ([0, 0], 1),
        ([-1] * 9 + [0], 1),
        ([0] * 2 + [1] * 2 + [2] * 2, 1),
    )
    def test_few_labels_do_not_stop_it(self, labels, count):
        self.assertEqual(held_out(pictures(labels)).sum(), count)

    def test_a_class_of_one_example_stays_in_training(self):
        labels = np.r_[np.arange(100) % 4, 4, 5, 6]
        self.assertLess(labels[held_out(pictures(labels))].max(), 4)

    def test_copies_of_one_example_are_on_one_side(self):
        small, large = pictures(np.arange(30) % 3), pictures(np.arange(100) % 3, 1)
        mixed = MixSource("mix", [(small, 100), (large, 100)])
        same = ArraySource("same", np.repeat(large.arrays, 2, 0), np.repeat(large.labels, 2))
        joined = MixSource("joined", [(small, 30), (Subset(small, np.arange(9), "some"), 9)])
        for source in (mixed, same, joined, Subset(mixed, np.arange(10, 190), "part")):
            digests = identities(source)
            held = held_out(source)
            self.assertNotEmpty(digests[held])
            self.assertEmpty(np.intersect1d(digests[held], digests[~held]))
            for i in (1, 2, 3):
                learned, held_out_part = (identities(part) for part in fold(source, None, f"{i}/3"))
                self.assertEmpty(np.intersect1d(learned, held_out_part))
                self.assertEqual(len(learned) + len(held_out_part), len(source))

    def test_files_go_by_content_or_by_path(self):
        folder = self.create_tempdir().full_path
        for i in range(6):
            image = np.full((8, 8), 40 * (i // 2), np.uint8)
            cv2.imwrite(f"{folder}/{i}.png", image)
        source = open_source(f"folder:{folder}")
        self.assertLen(np.unique(identities(source)), 3)
        both = MixSource("both", [(source, 6), (open_source(f"folder:{folder}"), 6)])
        with mock.patch("ssl_jax.data.copies.READ", 0):
            digests = identities(both)
        self.assertLen(np.unique(digests), 6)
        np.testing.assert_array_equal(digests[:6], digests[6:])

    def test_a_fold_without_copies_is_what_it_was(self):
        from sklearn.model_selection import StratifiedKFold

        source = pictures(np.arange(50) % 5)
        labels = source.labels
        splits = StratifiedKFold(5, shuffle=True, random_state=0).split(labels, labels)
        held = fold(source, None, "2/5")[1]
        rows = list(splits)[1][1]
        for i, row in enumerate(rows):
            np.testing.assert_array_equal(held.read(i), source.read(row))

    def test_a_sample_is_even_over_classes_in_turns(self):
        labels = np.arange(1000) % 10
        np.testing.assert_array_equal(np.bincount(labels[sample(labels, 100)]), [10] * 10)
        np.testing.assert_array_equal(sample(labels, 2000), np.arange(1000))


if __name__ == "__main__":
    absltest.main()
