"""Parts of a data set: folds against their definition, few labels against the evaluation's."""

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import ArraySource, open_source
from ssl_jax.data.subset import Subset, fold, labelled
from ssl_jax.evals.fewshot import draw_labels


def numbered(count, start=0, classes=4):
    """A source whose image i is filled with start + i."""
    pixels = np.broadcast_to(
        np.arange(start, start + count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 1)
    )
    labels = (np.arange(count) + start) % classes
    captions = [(f"image {start + i}",) for i in range(count)]
    return ArraySource(f"set{start}", pixels, labels, captions=captions)


def values(source):
    return [int(source.read(i)[0, 0, 0]) for i in range(len(source))]


class SubsetTest(parameterized.TestCase):
    def test_everything_is_of_the_rows(self):
        part = Subset(numbered(20), np.array([7, 3, 12]), "three")
        self.assertEqual(values(part), [7, 3, 12])
        np.testing.assert_array_equal(part.labels, [3, 3, 0])
        np.testing.assert_array_equal(part.arrays[:, 0, 0, 0], [7, 3, 12])
        self.assertEqual(part.captions, [("image 7",), ("image 3",), ("image 12",)])
        self.assertEqual((part.num_classes, part.name), (4, "three"))
        self.assertEqual(part.describe(1), "index 3 of set0")
        self.assertNotEqual(
            part.fingerprint(), Subset(numbered(20), np.array([3, 7, 12]), "").fingerprint()
        )

    @parameterized.parameters(True, False)
    def test_folds_cover_both_sets_once_and_evenly(self, with_test):
        train, test = numbered(30), numbered(10, 30) if with_test else None
        total = 40 if with_test else 30
        seen = []
        for i in range(1, 6):
            learned, held = fold(train, test, f"{i}/5")
            self.assertEqual(sorted(values(learned) + values(held)), list(range(total)))
            counts = np.bincount(held.labels)
            self.assertLessEqual(counts.max() - counts.min(), 1)
            seen += values(held)
        self.assertEqual(sorted(seen), list(range(total)))
        again = fold(train, test, "5/5")[1]
        self.assertEqual(values(again), values(held))
        self.assertEqual(again.fingerprint(), held.fingerprint())

    def test_folds_without_labels(self):
        whole = ArraySource("plain", np.zeros((10, 2, 2, 1), np.uint8))
        learned, held = fold(whole, None, "1/5")
        self.assertEqual((len(learned), len(held), held.labels), (8, 2, None))

    @parameterized.parameters("0/5", "6/5", "1/1", "1/99", "2", "a/b", "2/5x")
    def test_bad_fold(self, which):
        with self.assertRaisesRegex(UserError, "data.fold: .* write '2/5'"):
            fold(numbered(40), None, which)

    def test_digits_labels_are_those_of_the_few_label_evaluation(self):
        digits = open_source("digits")
        for draw in (0, 3):
            rows = draw_labels(digits.labels, 5, 0, draw)
            part = labelled(digits, "5", draw)
            np.testing.assert_array_equal(part.arrays, digits.arrays[np.sort(rows)])
            np.testing.assert_array_equal(np.bincount(part.labels), [5] * 10)

    def test_a_share_of_each_class_at_least_one(self):
        labels = np.repeat([0, 1, 2, -1], [200, 100, 10, 50])
        source = ArraySource("uneven", np.zeros((360, 2, 2, 1), np.uint8), labels)
        np.testing.assert_array_equal(np.bincount(labelled(source, "2%").labels), [4, 2, 1])
        np.testing.assert_array_equal(np.bincount(labelled(source, "100%").labels), [200, 100, 10])
        np.testing.assert_array_equal(np.bincount(labelled(source, "50").labels), [50, 50, 10])
        one, other = labelled(source, "2%"), labelled(source, "2%", draw=1)
        self.assertNotEqual(one.fingerprint(), other.fingerprint())
        self.assertEqual(one.name, "uneven, 2% of the labels, draw 0")

    @parameterized.parameters("0", "-1", "1.5", "101%", "five", "%")
    def test_bad_amount(self, amount):
        with self.assertRaisesRegex(UserError, "data.labelled: .*expected labels a class"):
            labelled(numbered(10), amount)

    def test_no_labels(self):
        with self.assertRaisesRegex(UserError, "data.labelled: plain has no labels"):
            labelled(ArraySource("plain", np.zeros((4, 2, 2, 1), np.uint8)), "5")


if __name__ == "__main__":
    absltest.main()
