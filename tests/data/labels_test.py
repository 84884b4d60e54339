import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.labels import number_labels, number_texts


class LabelsTest(parameterized.TestCase):
    @parameterized.parameters(
        ([2, 0, None, -1], (), [2, 0, -1, -1], ("0", "1", "2")),
        (np.array([1, -1], np.int64), (), [1, -1], ("0", "1")),
        (["b", None, "a", "b"], (), [1, -1, 0, 1], ("a", "b")),
        (["b", "b"], ("b", "a"), [0, 0], ("b", "a")),
        ([0, -1], ("x", "y"), [0, -1], ("x", "y")),
        ([-1, None], ("x", "y"), [-1, -1], ("x", "y")),
    )
    def test_numbers(self, values, class_names, want, names):
        labels, class_names = number_labels(values, "set", class_names)
        np.testing.assert_array_equal(labels, want)
        self.assertEqual((labels.dtype, class_names), (np.int32, names))

    @parameterized.parameters(([None, None],), ([-1, None],), (np.array([-1, -1]),))
    def test_none(self, values):
        self.assertEqual(number_labels(values, "set"), (None, ()))

    @parameterized.parameters(
        ([0.0, float("nan"), 2.0, None], [0, -1, 2, -1], ("0", "1", "2")),
        ([True, False, None], [1, 0, -1], ("0", "1")),
        (np.array([1.0, np.nan]), [1, -1], ("0", "1")),
        (np.array([False, True]), [0, 1], ("0", "1")),
    )
    def test_floats_with_gaps_and_bools(self, values, labels, names):
        got, classes = number_labels(values, "set")
        self.assertEqual((got.tolist(), classes), (labels, names))

    @parameterized.parameters(
        ([0, 3], ("a", "b", "c"), "set: label 3 at index 1 is out of range; expected 0 to 2"),
        ([0, -2], (), "label -2 at index 1 is out of range"),
        ([-2, -2], (), "label -2 at index 0"),
        ([7, 3_000_000_000], (), "label 3000000000 at index 1"),
        (["a", "d"], ("a", "b"), "label 'd' is not one of its 2 classes"),
        (["a", 1], (), "labels are int and str; expected all"),
        ([0.0, 1.5], (), "label 1.5 at index 1 is not a class; expected whole numbers, or NaN"),
        ([b"a"], (), "labels are bytes"),
    )
    def test_bad(self, values, class_names, message):
        with self.assertRaisesRegex(UserError, message):
            number_labels(values, "set", class_names)

    def test_texts(self):
        labels, names = number_texts(["3", "", "0", "-1"], "set")
        np.testing.assert_array_equal(labels, [3, -1, 0, -1])
        self.assertEqual(names, ("0", "1", "2", "3"))
        labels, names = number_texts(["3", "", "cat"], "set")
        np.testing.assert_array_equal(labels, [0, -1, 1])
        self.assertEqual(names, ("3", "cat"))
        self.assertEqual(number_texts(["", ""], "set"), (None, ()))


if __name__ == "__main__":
    absltest.main()
