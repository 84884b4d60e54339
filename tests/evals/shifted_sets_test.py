import json
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.evals.shifted_sets import (
    class_numbers,
    named_specs,
    open_shifted,
    wider_classes,
)

ANIMALS = ("ant", "bee", "cow", "dog")


class ClassNumbersTest(parameterized.TestCase):
    @parameterized.parameters(
        (("dog", "ant"), ANIMALS, [3, 0]),
        (("1", "3"), ANIMALS, [1, 3]),  # ImageNet-V2's folders are numbers
        (("0", "1", "10", "2"), tuple("abcdefghijk"), [0, 1, 10, 2]),  # sorted as texts
        (("00", "02"), ANIMALS, [0, 2]),
        (("2", "0"), ("0", "1", "2"), [2, 0]),
        (("5", "0"), ("5", "0"), [0, 1]),  # names before numbers
    )
    def test_by_name_or_by_number(self, names, known, numbers):
        np.testing.assert_array_equal(class_numbers(names, known, "x"), numbers)

    @parameterized.parameters(
        (("dgo", "ant"), r"^x: class 'dgo' is not among the 4 classes .*; did you mean 'dog'\?$"),
        (("elephant", "fox", "7"), "class 'elephant' and 2 more is not .* they are like ant, bee"),
        (("1", "4"), "class '4' is not among the 4 classes"),
        (("1", "ant"), "class '1' is not among"),
    )
    def test_missing(self, names, message):
        with self.assertRaisesRegex(UserError, message):
            class_numbers(names, ANIMALS, "x")


class WiderClassesTest(absltest.TestCase):
    def file(self, content):
        path = Path(self.create_tempdir().full_path) / "map"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    def test_without_a_file(self):
        np.testing.assert_array_equal(wider_classes("", ANIMALS, ("bee", "dog")), [-1, 0, -1, 1])

    def test_by_name(self):
        path = self.file("ant insect\nbee insect\ncow mammal\n")
        of = wider_classes(path, ANIMALS, ("mammal", "insect"))
        np.testing.assert_array_equal(of, [1, 1, 0, -1])

    def test_by_number_as_imagenet_9(self):
        """Both are numbers, and -1 stands for none."""
        path = self.file({"0": 1, "1": 1, "2": -1, "3": 0})
        of = wider_classes(path, ANIMALS, ("00_dog", "01_insect"))
        np.testing.assert_array_equal(of, [1, 1, -1, 0])

    def test_errors(self):
        insects = self.file("ant insect\nbee insect\ncow mammal\n")
        with self.assertRaisesRegex(UserError, "no class 'insect' in the test set; expected .*bug"):
            wider_classes(insects, ANIMALS, ("bug", "mammal"))
        with self.assertRaisesRegex(UserError, "no class of the training set is a 'bird'"):
            wider_classes(insects, ANIMALS, ("bird", "insect", "mammal"))
        with self.assertRaisesRegex(UserError, "no class 'fox' here"):
            wider_classes(self.file("fox a\nant b\n"), ANIMALS, ("a", "b"))
        with self.assertRaisesRegex(UserError, "classes, without a file: class 'fly' is not"):
            wider_classes("", ANIMALS, ("ant", "fly"))


class NamesTest(absltest.TestCase):
    def test_names(self):
        specs = ("folder:/data/imagenet-a", "v2=folder:/x", "digits:photos", "tfds:imagenet_r:test")
        self.assertEqual(
            named_specs(specs, "x"),
            {
                "imagenet_a": "folder:/data/imagenet-a",
                "v2": "folder:/x",
                "photos": "digits:photos",
                "imagenet_r_test": "tfds:imagenet_r:test",
            },
        )
        with self.assertRaisesRegex(UserError, "^x: two sets are called 'a'; write NAME=/y/a"):
            named_specs(("/x/a", "/y/a"), "x")
        for spec in ("folder:/x/clean", "a_clean=digits"):  # shifts_clean_top1, shifts_a_clean_top1
            with self.assertRaisesRegex(UserError, "^x: a set is called .*clean', as the clean im"):
                named_specs((spec,), "x")


class OpenTest(absltest.TestCase):
    def test_labels_by_name(self):
        root = Path(self.create_tempdir().full_path)
        for name in ("dog", "bee"):
            (root / name).mkdir()
            Image.new("RGB", (8, 8)).save(root / name / "1.png")
        shifted = open_shifted(f"folder:{root}", ANIMALS)
        np.testing.assert_array_equal(shifted.numbers, [1, 3])
        np.testing.assert_array_equal(shifted.labels(np.array([1, 0])), [3, 1])
        self.assertLen(shifted.part(1).rows, 1)

    def test_empty_or_without_labels(self):
        root = Path(self.create_tempdir().full_path)
        with self.assertRaisesRegex(UserError, "no image in or below it"):
            open_shifted(f"folder:{root}", ANIMALS)
        Image.new("RGB", (8, 8)).save(root / "1.png")
        with self.assertRaisesRegex(UserError, "no image has a class; expected one folder per"):
            open_shifted(f"folder:{root}", ANIMALS)


if __name__ == "__main__":
    absltest.main()
