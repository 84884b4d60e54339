"""Several labels per example: padding, parts, the closure over a hierarchy, files, a batch."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data import prepare, subset
from ssl_jax.data.hierarchy import add_wider_classes
from ssl_jax.data.label_sets import LabelSets, number_label_sets
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import noisy_digits, open_source
from ssl_jax.data.sources.base import ArraySource

SETS = [[3, 0], [], [2, 2, 1]]


def lists(sets):
    return [sets[i].tolist() for i in range(len(sets))]


class LabelSetsTest(parameterized.TestCase):
    def test_repetitions_count_once(self):
        self.assertEqual(lists(LabelSets.of(SETS)), [[0, 3], [], [1, 2]])
        self.assertEqual(LabelSets.of(SETS).most, 2)

    def test_padding(self):
        rows = LabelSets.of(SETS).padded(np.array([2, 1, 0, 2]), 3)
        np.testing.assert_array_equal(rows, [[1, 2, -1], [-1] * 3, [0, 3, -1], [1, 2, -1]])
        np.testing.assert_array_equal(
            LabelSets.of([[], []]).padded(np.arange(2), 2), [[-1] * 2] * 2
        )

    def test_a_part(self):
        self.assertEqual(lists(LabelSets.of(SETS).part(np.array([2, 0, 1]))), [[1, 2], [0, 3], []])

    def test_the_closure_adds_all_above_and_nothing_more_the_second_time(self):
        # 0 is below 1, which is below 2 and 3; 4 and 5 are below each other.
        parents = np.array([[0, 1], [1, 2], [1, 3], [4, 5], [5, 4]])
        closed = LabelSets.of([[0], [2], [], [4, 1]]).closed(parents, 7)
        self.assertEqual(lists(closed), [[0, 1, 2, 3], [2], [], [1, 2, 3, 4, 5]])
        self.assertEqual(lists(closed.closed(parents, 7)), lists(closed))

    def test_the_closure_equals_the_definition(self):
        draw = np.random.default_rng(0)
        classes, parents = 9, draw.integers(0, 9, (8, 2))
        sets = [draw.choice(classes, draw.integers(0, 4), replace=False) for _ in range(30)]
        reach = np.eye(classes, dtype=bool)
        for _ in range(classes):
            for child, parent in parents:
                reach[:, parent] |= reach[:, child]
        closed = LabelSets.of(sets).closed(parents, classes)
        for i, labels in enumerate(sets):
            self.assertEqual(closed[i].tolist(), np.flatnonzero(reach[labels].any(0)).tolist())

    def test_names_become_numbers(self):
        sets, names = number_label_sets([["cat", "dog"], None, ["ant"]], "x")
        self.assertEqual((lists(sets), names), ([[1, 2], [], [0]], ("ant", "cat", "dog")))
        self.assertEqual(number_label_sets([[], None], "x"), (None, ()))
        with self.assertRaisesRegex(UserError, "a list of labels holds none or -1"):
            number_label_sets([[0, -1]], "x")


class NoisyDigitsTest(absltest.TestCase):
    def test_noise_is_a_function_of_the_index(self):
        truth = np.arange(2000) % 10
        whole, start = noisy_digits.noisy(truth, 0), noisy_digits.noisy(truth[:100], 0)
        self.assertEqual(lists(start), lists(whole)[:100])
        self.assertNotEqual(lists(start), lists(noisy_digits.noisy(truth[:100], 1)))
        digit = np.array([labels[0] for labels in lists(whole)])
        self.assertBetween(np.mean(digit != truth), 0.17, 0.23)
        self.assertBetween(np.mean([len(labels) for labels in lists(whole)]), 1.22, 1.28)

    def test_wider_classes_are_filled_in(self):
        source = open_source("noisy_digits")
        for labels in lists(source.label_sets)[:50]:
            digit = labels[0]
            self.assertContainsSubset({10 + digit % 2, 12 + digit // 5}, labels)
        np.testing.assert_array_equal(source.labels, open_source("digits").labels)


class FilesTest(parameterized.TestCase):
    def write(self, labels):
        path = f"{self.create_tempdir().full_path}/x.parquet"
        images = [b"not read here"] * len(labels)
        pq.write_table(pa.table({"image": images, "label": labels}), path)
        return f"parquet:{path}"

    def test_a_column_of_lists(self):
        source = open_source(self.write([["fox"], ["dog", "pet"], None]))
        self.assertEqual(source.class_names, ("dog", "fox", "pet"))
        self.assertEqual(lists(source.label_sets), [[1], [0, 2], []])
        self.assertIsNone(source.labels)
        other = open_source(self.write([["fox"], ["pet"], None]))
        self.assertNotEqual(source.fingerprint(), other.fingerprint())
        self.assertEqual(lists(subset.Subset(source, [1, 0], "x").label_sets), [[0, 2], [1]])

    def test_a_hierarchy_in_a_file(self):
        source = open_source(self.write([["fox"], ["dog", "pet"], []]))
        file = self.create_tempfile(content="fox,canine\ndog,canine\ncanine,animal\n").full_path
        add_wider_classes(source, file)
        self.assertEqual(source.class_names, ("dog", "fox", "pet", "canine", "animal"))
        self.assertEqual(lists(source.label_sets), [[1, 3, 4], [0, 2, 3, 4], []])

    def test_a_batch(self):
        source = open_source("noisy_digits")
        inputs = Inputs((View(8, area=(1.0, 1.0)),), labels=4)
        options = {"global_batch": 8, "seed": 0, "stop_step": 2}
        batch = next(batches(source, inputs, **options))
        shape = inputs.shapes(8, 3)["labels"]
        self.assertEqual((batch["labels"].shape, batch["labels"].dtype), (shape.shape, shape.dtype))
        for index, labels in zip(batch["index"], batch["labels"], strict=True):
            self.assertEqual(labels[labels >= 0].tolist(), source.label_sets[index].tolist())

    @parameterized.parameters(
        ("digits", 4, "digits has no lists of labels"),
        ("noisy_digits", 2, r"has an image with 4 labels, more than 2; set --config.objective"),
    )
    def test_label_sets_that_do_not_fit(self, data, most, message):
        inputs = Inputs((View(8, area=(1.0, 1.0)),), labels=most)
        with self.assertRaisesRegex(UserError, message):
            batches(open_source(data), inputs, global_batch=8, seed=0, stop_step=1)

    def test_shares_of_wrong_labels(self):
        truth = np.arange(1000) % 10
        wrong = {}
        for share in (0.0, 0.2, 0.5, 1.0):
            first = [labels[0] for labels in lists(noisy_digits.noisy(truth, 0, share))]
            wrong[share] = set(np.flatnonzero(np.array(first) != truth))
            self.assertAlmostEqual(len(wrong[share]) / 1000, share, delta=0.04)
        self.assertTrue(wrong[0.2] < wrong[0.5] < wrong[1.0])
        self.assertLen(wrong[1.0], 1000)
        names = [open_source(f"noisy_digits{path}").fingerprint() for path in ("", ":0.2", ":0.5")]
        self.assertLen({*names[1:]}, 2)

    def test_what_else_is_wrong(self):
        with self.assertRaisesRegex(UserError, "data.hierarchy: digits has no lists of labels"):
            add_wider_classes(open_source("digits"), "none.csv")
        for path in ("x", "1.5", "nan", "-0.1"):
            with self.assertRaisesRegex(UserError, f"noisy_digits:{path}.*from 0 to 1"):
                open_source(f"noisy_digits:{path}")
        pixels, sets = np.zeros((2, 4, 4, 3), np.uint8), LabelSets.of([[0], [1]])
        source = ArraySource("x", pixels)
        source.label_sets = sets
        with self.assertRaisesRegex(UserError, "prepared files do not hold"):
            prepare.prepare(source, Path("nowhere"), prepare.Shards())


if __name__ == "__main__":
    absltest.main()
