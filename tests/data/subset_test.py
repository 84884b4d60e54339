"""Parts of a data set: folds against their definition, few labels against the evaluation's."""

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import ArraySource, open_source
from ssl_jax.data.subset import Subset, draw_labels, fold, fraction, holdout, labelled
from ssl_jax.run.configs import load_config
from ssl_jax.run.experiment import Experiment


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
        held_values = []
        for i in range(1, 6):
            learned, held = fold(train, test, f"{i}/5")
            self.assertEqual(sorted(values(learned) + values(held)), list(range(total)))
            counts = np.bincount(held.labels)
            self.assertLessEqual(counts.max() - counts.min(), 1)
            held_values += values(held)
        self.assertEqual(sorted(held_values), list(range(total)))
        again = fold(train, test, "5/5")[1]
        self.assertEqual(values(again), values(held))
        self.assertEqual(again.fingerprint(), held.fingerprint())

    def test_folds_without_labels(self):
        whole = ArraySource("plain", np.zeros((10, 2, 2, 1), np.uint8))
        learned, held = fold(whole, None, "1/5")
        self.assertEqual((len(learned), len(held), held.labels), (8, 2, None))

    @parameterized.parameters("0/5", "6/5", "1/1", "1/99", "2", "a/b", "2/5x")
    def test_bad_fold(self, which):
        with self.assertRaisesRegex(UserError, "data.fold: expected 'i/n', such as '2/5'"):
            fold(numbered(40), None, which)

    def test_a_held_out_part_is_even_over_the_classes(self):
        rest, held = holdout(numbered(40), 0.25)
        self.assertEqual(sorted(values(rest) + values(held)), list(range(40)))
        np.testing.assert_array_equal(np.bincount(held.labels), [2, 3, 2, 3])
        self.assertEqual(values(holdout(numbered(40), 0.25)[1]), values(held))

    def test_copies_are_on_the_same_side_of_it(self):
        pixels = np.repeat(numbered(20).arrays, 2, axis=0)
        rest, held = holdout(ArraySource("twice", pixels, np.arange(40) // 2 % 4), 0.2)
        self.assertEqual(len(held), 8)
        self.assertEqual(set(values(rest)) & set(values(held)), set())

    def test_a_held_out_part_of_nothing(self):
        with self.assertRaisesRegex(UserError, "data.holdout: 0.2 of the 1 .* holds out none"):
            holdout(numbered(1), 0.2)

    def test_digits_labels_are_those_of_the_few_label_evaluation(self):
        digits = open_source("digits")
        for draw in (0, 3):
            rows = draw_labels(digits.labels, 5, 0, draw)
            part = labelled(digits, "5", draw)
            np.testing.assert_array_equal(part.arrays, digits.arrays[np.sort(rows)])
            np.testing.assert_array_equal(np.bincount(part.labels), [5] * 10)

    def test_a_share_is_even_over_the_classes_with_at_least_one_of_each(self):
        labels = np.repeat([0, 1, 2, -1], [200, 100, 10, 50])
        source = ArraySource("uneven", np.zeros((360, 2, 2, 1), np.uint8), labels)
        for share, size in (("1%", 3), ("4.5%", 14), ("50%", 155)):
            part = labelled(source, share)
            counts = np.bincount(part.labels, minlength=3)
            self.assertGreaterEqual(counts.min(), 1)
            self.assertLessEqual(np.ptp(np.minimum(counts, 10)), 1)  # the third class has ten
            self.assertLessEqual(np.ptp(counts[:2]), 1)
            self.assertEqual(counts.sum(), size)
        np.testing.assert_array_equal(np.bincount(labelled(source, "100%").labels), [200, 100, 10])
        np.testing.assert_array_equal(np.bincount(labelled(source, "50").labels), [50, 50, 10])
        first, second = labelled(source, "10%"), labelled(source, "10%", draw=1)
        self.assertNotEqual(first.fingerprint(), second.fingerprint())
        self.assertEqual(first.name, "uneven, 10% of the labels, draw 0")

    @parameterized.parameters("0", "-1", "1.5", "101%", "five", "%")
    def test_bad_amount(self, amount):
        with self.assertRaisesRegex(UserError, "data.labelled: .*expected labels per class"):
            labelled(numbered(10), amount)

    def test_no_labels(self):
        with self.assertRaisesRegex(UserError, "data.labelled: plain has no labels"):
            labelled(ArraySource("plain", np.zeros((4, 2, 2, 1), np.uint8)), "5")


class FractionTest(parameterized.TestCase):
    def test_a_smaller_share_is_a_part_of_a_larger_one(self):
        pixels = np.arange(200, dtype=np.uint8)[:, None, None, None]
        source = ArraySource("set", pixels, np.arange(200) // 20)
        small, large = fraction(source, 0.1), fraction(source, 0.5)
        rows_of = [
            [int(part.read(i)[0, 0, 0]) for i in range(len(part))] for part in (small, large)
        ]
        self.assertEqual([len(rows) for rows in rows_of], [20, 100])
        self.assertLess(set(rows_of[0]), set(rows_of[1]))
        self.assertEqual(rows_of[0], sorted(set(rows_of[0])))
        self.assertGreater(len(set(small.labels)), 5)  # random, not the first
        np.testing.assert_array_equal(small.labels, np.array(rows_of[0]) // 20)
        np.testing.assert_array_equal(small.arrays[:, 0, 0, 0], rows_of[0])
        self.assertEqual(small.fingerprint(), fraction(source, 0.1).fingerprint())
        self.assertNotEqual(small.fingerprint(), large.fingerprint())
        self.assertIs(fraction(source, 1.0), source)

    def test_a_run_trains_on_it_and_is_judged_with_all(self):
        config = load_config("simclr:digits")
        config["data"]["fraction"], config["train"]["batch_size"] = 0.25, 32
        made = Experiment.from_config(config)
        self.assertEqual(made.spec.num_examples, round(0.25 * 1437))
        self.assertLen(made.evals_source, 1437)
        (view,) = next(made.batches(0, 1))["views"]
        self.assertLen(view, 32)

    @parameterized.parameters(0.0, -1.0, 1.5, 1e-5)
    def test_what_is_wrong_is_said(self, share):
        with self.assertRaisesRegex(UserError, r"data.fraction: expected a share in \(0, 1\]"):
            fraction(open_source("digits"), share)


if __name__ == "__main__":
    absltest.main()
