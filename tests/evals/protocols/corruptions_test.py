import dataclasses
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource, open_source
from ssl_jax.evals.base import Subject
from ssl_jax.evals.corrupted_sets import (
    ALEXNET,
    ALEXNET_CLEAN,
    CLEAN,
    check_complete,
    open_corrupted,
    summary,
)
from ssl_jax.evals.images import Images, Part
from ssl_jax.evals.protocols import corruptions
from ssl_jax.evals.protocols.corruptions import CORRUPTIONS, Corruptions, corrupt
from ssl_jax.evals.protocols.knn import Knn
from ssl_jax.evals.protocols.linear import Linear
from ssl_jax.objectives.base import Probe

try:
    library = corruptions.library()
except UserError:
    library = None


NAMES = (CLEAN, *CORRUPTIONS)


def errors_of(values):
    return dict(zip(NAMES, map(float, values), strict=True))


def images_of(source, size=8):
    mesh = jax.make_mesh((1, 1, 1), ("replica", "data", "fsdp"))
    rest = dict(view=View(size), channels=1, batch_size=32, mesh=mesh)
    return Images.of(source, None, 200, 100, **rest)


class SummaryTest(absltest.TestCase):
    def test_the_baseline_itself(self):
        alexnet = {CLEAN: ALEXNET_CLEAN} | ALEXNET
        numbers = summary(alexnet, alexnet)
        self.assertAlmostEqual(numbers["corruptions_mce"], 1)
        self.assertAlmostEqual(numbers["corruptions_relative_mce"], 1)
        self.assertAlmostEqual(numbers["corruptions_error"], 0.7889931, places=6)
        self.assertEqual(numbers["corruptions_fog_error"], ALEXNET["fog"])

    def test_two_corruptions_by_hand(self):
        base = {CLEAN: 0.4, "fog": 0.8, "snow": 0.6}
        numbers = summary({CLEAN: 0.2, "fog": 0.4, "snow": 0.6}, base)
        self.assertAlmostEqual(numbers["corruptions_error"], 0.5)
        self.assertAlmostEqual(numbers["corruptions_mce"], (0.5 + 1) / 2)
        self.assertAlmostEqual(numbers["corruptions_relative_mce"], (0.5 + 2) / 2)

    def test_in_numpy(self):
        rng = np.random.default_rng(0)
        errors, base = rng.uniform(0.3, 1, 16), rng.uniform(0.3, 1, 16)
        errors[0], base[0] = 0.1, 0.2
        numbers = summary(errors_of(errors), errors_of(base))
        self.assertAlmostEqual(numbers["corruptions_mce"], np.mean(errors[1:] / base[1:]))
        relative = np.mean((errors[1:] - 0.1) / (base[1:] - 0.2))
        self.assertAlmostEqual(numbers["corruptions_relative_mce"], relative)

    def test_a_baseline_that_a_corruption_does_no_harm(self):
        base = errors_of([0.2, 0.2, 0.0] + 13 * [0.6])
        numbers = summary(errors_of([0.1] + 15 * [0.3]), base)
        self.assertAlmostEqual(numbers["corruptions_mce"], np.mean([1.5] + 13 * [0.5]))
        self.assertAlmostEqual(numbers["corruptions_relative_mce"], 0.5)
        same = summary(errors_of(16 * [0.1]), errors_of(16 * [0.2]))
        self.assertNotIn("corruptions_relative_mce", same)

    def test_further_corruptions_are_not_averaged(self):
        alexnet = {CLEAN: ALEXNET_CLEAN} | ALEXNET
        numbers = summary(alexnet | {"saturate": 0.0}, alexnet)
        self.assertAlmostEqual(numbers["corruptions_mce"], 1)
        self.assertAlmostEqual(numbers["corruptions_error"], 0.7889931, places=6)
        self.assertEqual(numbers["corruptions_saturate_error"], 0)

    def test_fifteen(self):
        self.assertLen(CORRUPTIONS, 15)
        if library:
            self.assertEqual(list(CORRUPTIONS), library.get_corruption_names())


@absltest.skipIf(library is None, "imagecorruptions-imaug is not installed")
class CorruptTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.digits = open_source("digits").arrays
        rng = np.random.default_rng(0)
        cls.photo = (rng.random((40, 40, 3)) ** 2 * 255).astype(np.uint8)

    @parameterized.parameters(*CORRUPTIONS)
    def test_a_function_of_its_arguments(self, kind):
        for image in (self.photo, self.digits[3]):
            np.random.seed(7)
            first = corrupt(image, kind, 5, 11)
            self.assertEqual((first.shape, first.dtype), (image.shape, np.uint8))
            draw = np.random.rand()
            np.random.seed(7)
            self.assertEqual(np.random.rand(), draw, "the global generator was moved")
            np.testing.assert_array_equal(first, corrupt(image, kind, 5, 11))
            if image is self.photo:
                self.assertTrue(np.any(first != image))

    @parameterized.parameters("gaussian_noise", "impulse_noise", "glass_blur", "snow", "frost")
    def test_another_image_is_corrupted_otherwise(self, kind):
        a, b = (corrupt(self.photo, kind, 3, index) for index in (1, 2))
        self.assertTrue(np.any(a != b))

    @parameterized.parameters("gaussian_noise", "contrast", "jpeg_compression")
    def test_severity(self, kind):
        change = [
            np.abs(corrupt(self.photo, kind, s, 0).astype(int) - self.photo).mean()
            for s in (1, 3, 5)
        ]
        self.assertEqual(change, sorted(change))

    @parameterized.parameters("linear", "knn")
    def test_raw_pixels(self, classifier):
        subject = Subject(None, images_of(open_source("digits")), Probe())
        protocol = Corruptions(classifier=classifier, examples=8)
        with mock.patch.object(corruptions, "SEVERITIES", (1, 5)):
            numbers = protocol.measure(subject)
        self.assertEqual(numbers["corruptions_mce"], 1)  # its own baseline
        self.assertEqual(numbers["corruptions_relative_mce"], 1)
        self.assertLess(numbers["corruptions_clean_error"], numbers["corruptions_error"])

    def test_the_clean_error_is_that_of_the_linear_probe(self):
        subject = Subject(None, images_of(open_source("digits")), Probe())
        with mock.patch.object(corruptions, "CORRUPTIONS", ("contrast",)):
            numbers = Corruptions(examples=1000).measure(subject)
        top1 = Linear().measure(subject)["linear_top1"]
        self.assertAlmostEqual(numbers["corruptions_clean_error"], 1 - top1)

    def test_errors(self):
        subject = Subject(None, images_of(open_source("digits")), Probe())
        with self.assertRaisesRegex(UserError, "ImageNet's 1000 classes, these data have 10"):
            Corruptions(baseline="alexnet").check(subject)
        pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
        source = ArraySource("half", pixels, np.full(20, -1))
        with self.assertRaisesRegex(UserError, "none of 4 examples has a label"):
            Corruptions().measure(Subject(None, images_of(source), Probe()))


class SetsTest(parameterized.TestCase):
    def folders(self, sizes, class_of=lambda kind, severity: "ab"):
        """Write CORRUPTION/SEVERITY/CLASS/ with so many images of each class."""
        root = Path(self.create_tempdir().full_path)
        for (kind, severity), count in sizes.items():
            for name in class_of(kind, severity):
                folder = root / kind / str(severity) / name
                folder.mkdir(parents=True)
                for i in range(count):
                    Image.fromarray(np.full((8, 8), i, np.uint8)).save(folder / f"{i}.png")
        return str(root)

    @parameterized.parameters("linear", "knn")
    def test_digits(self, classifier):
        """The errors are those of the classifier on each set, the ratios those of raw pixels."""
        subject = Subject(None, images_of(open_source("digits")), Probe())
        protocol = Corruptions(data="shifted_digits", classifier=classifier, examples=100)
        numbers = protocol.measure(subject)
        self.assertEqual(numbers["corruptions_mce"], 1)
        errors = []
        for severity in (1, 2, 3):
            test = open_source(f"shifted_digits:contrast-{severity}", "eval")
            images = dataclasses.replace(
                subject.images, test=Part(test, np.arange(len(test))).some(100)
            )
            plain = Linear() if classifier == "linear" else Knn()
            top1 = plain.measure(Subject(None, images, Probe()))[f"{plain.name()}_top1"]
            errors.append(1 - top1)
        self.assertAlmostEqual(numbers["corruptions_contrast_error"], np.mean(errors))

    def test_folders(self):
        root = self.folders({("fog", 1): 2, ("fog", 3): 2, ("snow", 2): 1})
        (Path(root) / "notes").mkdir()  # holds no severity
        sets = open_corrupted(root, ("b", "a"))
        self.assertEqual({k: list(v) for k, v in sets.items()}, {"fog": [1, 3], "snow": [2]})
        shifted = sets["fog"][3]
        np.testing.assert_array_equal(shifted.labels(np.arange(4)), [1, 1, 0, 0])

    def test_severities_with_zeros(self):
        sets = open_corrupted(self.folders({("fog", "01"): 1, ("fog", "02"): 1}), ("a", "b"))
        self.assertEqual([*sets["fog"]], [1, 2])

    def test_errors(self):
        subject = Subject(None, images_of(open_source("digits")), Probe())
        with self.assertRaisesRegex(UserError, "size: 64 .* corrupted already"):
            Corruptions(data="shifted_digits", size=64).check(subject)
        with self.assertRaisesRegex(UserError, "no folder /nowhere"):
            Corruptions(data="/nowhere").check(subject)
        with self.assertRaisesRegex(UserError, "holds no folder CORRUPTION/SEVERITY/CLASS"):
            open_corrupted(self.create_tempdir().full_path, ("a", "b"))
        with self.assertRaisesRegex(UserError, "/clean is no corruption: .*; rename it"):
            open_corrupted(self.folders({("clean", 1): 1}), ("a", "b"))
        uneven = self.folders({("fog", 1): 2, ("fog", 2): 1})
        with self.assertRaisesRegex(UserError, "fog has 4 of severity 1, 2 of severity 2 images"):
            open_corrupted(uneven, ("a", "b"))
        with self.assertRaisesRegex(UserError, "fog/1: class 'b' is not among the 2 classes"):
            open_corrupted(self.folders({("fog", 1): 1}), ("a", "c"))
        sets = {kind: dict.fromkeys(range(1, 6)) for kind in ALEXNET}
        check_complete(sets)
        del sets["snow"][4]
        with self.assertRaisesRegex(UserError, "needs snow at the severities 1 to 5, got 1, 2, 3"):
            check_complete(sets)
        del sets["gaussian_noise"]
        with self.assertRaisesRegex(UserError, "needs gaussian_noise .*, got none"):
            check_complete(sets)


class SettingsTest(absltest.TestCase):
    def test_invalid_settings(self):
        with self.assertRaisesRegex(UserError, "corruptions.size: expected .* at least 32, got 16"):
            Corruptions(size=16)
        with self.assertRaisesRegex(UserError, "corruptions.examples: expected .* of at least 1"):
            Corruptions(examples=0)

    def test_without_the_library(self):
        with (
            mock.patch.dict("sys.modules", {"imagecorruptions": None}),
            self.assertRaisesRegex(UserError, r"pip install -e '\.\[robustness\]'"),
        ):
            corruptions.library()


if __name__ == "__main__":
    absltest.main()
