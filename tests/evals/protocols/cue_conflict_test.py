import math
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.evals.protocols.cue_conflict import (
    CueConflict,
    Cues,
    decisions,
    mean_probabilities,
    read_cues,
    shape_bias,
)
from tests.evals.protocols.backgrounds_test import picture, subject

NAMES = ("bear", "cat", "elephant")


class NumbersTest(parameterized.TestCase):
    def test_the_bias_by_hand(self):
        """Three of six decisions are for the shape, one for the texture, two for neither."""
        shape, texture = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 2, 0, 2, 0, 1])
        numbers = shape_bias(np.array([0, 0, 1, 2, 1, -1]), Cues(shape, texture))
        self.assertAlmostEqual(numbers["cue_conflict_shape"], 3 / 6)
        self.assertAlmostEqual(numbers["cue_conflict_texture"], 1 / 6)
        self.assertAlmostEqual(numbers["cue_conflict_shape_bias"], 3 / 4)

    def test_no_decision_for_either(self):
        numbers = shape_bias(np.array([2, 2]), Cues(np.array([0, 1]), np.array([1, 0])))
        self.assertTrue(math.isnan(numbers["cue_conflict_shape_bias"]))
        self.assertEqual(numbers["cue_conflict_shape"], 0)

    def test_ties(self):
        """The first among equals decides; without any vote nothing is decided."""
        rows = np.array([[0.3, 0.3, 0.1], [0.1, 0.4, 0.4], [0.0, 0.0, 0.0]])
        np.testing.assert_array_equal(decisions(rows), [0, 1, -1])

    def test_means_of_classes(self):
        """The mean, not the sum: a class of many members gains nothing."""
        rows = np.array([[0.2, 0.2, 0.3, 0.3]])
        of = np.array([0, 0, 1, -1])
        np.testing.assert_allclose(mean_probabilities(rows, of, 2), [[0.2, 0.3]])

    @parameterized.parameters(
        ("cat/cat7-elephant1.png", 1, 2),
        ("bear-cat.jpg", 0, 1),
        ("x/0001_cc_bear10-cat2.png", 0, 1),
        ("cat/cat1-cat3.png", 1, 1),
    )
    def test_names(self, file, shape, texture):
        cues = read_cues([file], NAMES)
        self.assertEqual((cues.shape[0], cues.texture[0]), (shape, texture))

    def test_names_with_dashes_and_underscores(self):
        """The longest class that the text ends with, at the last dash that separates two."""
        names = ("bear", "polar_bear", "t-shirt", "cat")
        files = ["t-shirt1-cat2.png", "cat1-t-shirt.png", "0001_cc_polar_bear3-bear_cat.png"]
        cues = read_cues(files, names)
        np.testing.assert_array_equal(cues, [[2, 3, 1], [3, 2, 3]])

    def test_names_that_are_numbers(self):
        self.assertEqual([*map(int, np.ravel(read_cues(["3-7.png"], list("0123456789"))))], [3, 7])

    @parameterized.parameters(
        ("cat/cat7.png", "cat7.png: expected SHAPE-TEXTURE, as cat7-elephant1"),
        ("cat7-dog1.png", "no class 'dog'; expected one of bear, cat, elephant; cue_conflict.clas"),
        ("dog7-cat1.png", "no class 'dog'"),
    )
    def test_other_names(self, file, message):
        with self.assertRaisesRegex(UserError, message):
            read_cues([file], NAMES)


class CueConflictTest(absltest.TestCase):
    def folder(self, names):
        """Write images of these names, each a picture of a class."""
        root = Path(self.create_tempdir().full_path)
        for name, shown in names.items():
            path = root / name.partition("-")[0].rstrip("0123456789") / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(shown)).save(path)
        return f"folder:{root}"

    def test_measured(self):
        names = {"ant1-bee1": "ant", "bee1-cow2": "cow", "cow1-ant1": "cow", "fog1-ant3": "bee"}
        names["cow2-cow3"] = "cow"  # no conflict
        for classifier in ("linear", "knn"):
            protocol = CueConflict(data=self.folder(names), classifier=classifier)
            numbers = protocol.measure(subject())
            self.assertAlmostEqual(numbers["cue_conflict_shape"], 2 / 4)
            self.assertAlmostEqual(numbers["cue_conflict_texture"], 1 / 4)
            self.assertAlmostEqual(numbers["cue_conflict_shape_bias"], 2 / 3)

    def test_wider_classes(self):
        path = Path(self.create_tempdir().full_path) / "entry.txt"
        path.write_text("ant insect\nbee insect\ncow mammal\n")
        names = {"insect1-mammal1": "bee", "mammal1-insect1": "ant", "mammal2-insect2": "cow"}
        protocol = CueConflict(data=self.folder(names), classes=str(path))
        numbers = protocol.measure(subject())
        self.assertAlmostEqual(numbers["cue_conflict_shape_bias"], 2 / 3)

    def test_errors(self):
        self.assertFalse(CueConflict().applies(subject()))
        with self.assertRaisesRegex(UserError, "no image of .* has conflicting cues"):
            CueConflict(data=self.folder({"cow2-cow3": "cow"})).check(subject())
        with self.assertRaisesRegex(UserError, "digits has no file names; give a folder"):
            CueConflict(data="digits").check(subject())


if __name__ == "__main__":
    absltest.main()
