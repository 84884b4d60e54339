from pathlib import Path
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols import zero_shot
from ssl_jax.evals.protocols.zero_shot import ZeroShot, class_embeddings, zero_shot_accuracies
from ssl_jax.objectives.base import Encoder, Probe, TextTower


class AccuraciesTest(absltest.TestCase):
    def test_identity_embeddings(self):
        eye = np.eye(7)
        self.assertEqual(
            zero_shot_accuracies(3 * eye, 0.1 * eye, np.arange(7)),
            {"zero_shot_top1": 1, "zero_shot_mean_per_class": 1, "zero_shot_top5": 1},
        )
        turned = zero_shot_accuracies(eye, np.roll(eye, 1, 0), np.arange(7))
        self.assertEqual(turned["zero_shot_top1"], 0)

    def test_five_of_six(self):
        """An image that lies ever farther from the classes 0 to 5."""
        angles = np.linspace(0, 1, 6)
        classes = np.stack([np.cos(angles), np.sin(angles)], 1)
        images = np.tile([1.0, 0.0], (6, 1))
        numbers = zero_shot_accuracies(images, classes, np.arange(6))
        self.assertAlmostEqual(numbers["zero_shot_top1"], 1 / 6)
        self.assertAlmostEqual(numbers["zero_shot_top5"], 5 / 6)
        self.assertNotIn(
            "zero_shot_top5", zero_shot_accuracies(images, classes[:5], np.zeros(6, int))
        )

    def test_of_equal_classes_the_lower_comes_first(self):
        numbers = zero_shot_accuracies(np.ones((4, 3)), np.ones((2, 3)), np.array([0, 0, 0, 1]))
        self.assertEqual(
            (numbers["zero_shot_top1"], numbers["zero_shot_mean_per_class"]), (0.75, 0.5)
        )

    def test_no_image(self):
        with self.assertRaisesRegex(UserError, "no test image has a label"):
            zero_shot_accuracies(np.ones((0, 3)), np.ones((2, 3)), np.zeros(0, int))


class ClassEmbeddingsTest(absltest.TestCase):
    def test_directions_are_averaged(self):
        """A long vector weighs no more than a short one."""
        sentences = np.array([[[10.0, 0], [0, 0.1]], [[3.0, 4], [3, 4]]])
        np.testing.assert_allclose(
            class_embeddings(sentences), [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], rtol=1e-12
        )

    def test_a_sentence_twice_weighs_twice(self):
        a, b = np.array([1.0, 0]), np.array([0, 1.0])
        np.testing.assert_allclose(
            class_embeddings(np.array([[a, a, b]])), [np.array([2, 1]) / 5**0.5], rtol=1e-12
        )


class ZeroShotTest(parameterized.TestCase):
    """Stub towers: images are embedded at their label's axis, texts at their counts of a to f."""

    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.labels = np.array([0, 1, 2, 3, 4, 5, -1, 5])
        self.subject = self.make(("a", "b", "c", "d", "e", "f"))

    def make(self, names):
        pixels = np.zeros((8, 4, 4, 1), np.uint8)
        source = ArraySource("stub", pixels, self.labels, names)
        images = Images.of(
            source,
            source,
            100,
            100,
            view=View(4),
            channels=1,
            batch_size=8,
            mesh=jax.make_mesh((1, 1, 1), ("replica", "data", "fsdp")),
        )
        tower = TextTower({}, 8, lambda *_: 0, lambda *_: 0)
        return Subject(Encoder({}, {}, None, tower), images, Probe())

    def measure(self, subject=None, **settings):
        def embed_texts(encoder, texts, tokenizer, mesh):
            self.texts = texts
            return np.array([[text.count(c) + 1e-3 for c in "abcdef"] for text in texts])

        def embed_images(subject, part):
            index = np.concatenate([i[i >= 0] for _, i in subject.images.batches(part)])
            return np.eye(6)[self.labels[index]], index

        with (
            mock.patch.object(zero_shot, "embed_texts", embed_texts),
            mock.patch.object(zero_shot, "embed_images", embed_images),
        ):
            return ZeroShot(**settings).measure(subject or self.subject)

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def test_every_name_in_every_template(self):
        templates = self.write("t.txt", "{}{}\n\n it is {}, you see\n")
        numbers = self.measure(templates=templates)
        self.assertEqual(self.texts[:4], ["aa", "it is a, you see", "bb", "it is b, you see"])
        self.assertEqual(numbers["zero_shot_top1"], 1)  # "it is b, you see" is nearer to e than b
        self.measure()
        self.assertLen(self.texts, 6 * len(zero_shot.TEMPLATES))

    def test_names_from_a_file(self):
        names, only = self.write("n.txt", "b\na\nc\nd\ne\nf\n"), self.write("t.txt", "{}")
        numbers = self.measure(names=names, templates=only)
        # The example without a label is left out.
        self.assertAlmostEqual(numbers["zero_shot_top1"], 5 / 7)
        self.assertAlmostEqual(numbers["zero_shot_mean_per_class"], 4 / 6)

    @parameterized.parameters(
        ({"names": "a\nb"}, "expected 6 class names for stub, got 2"),
        ({"templates": "a photo"}, "expected {} for the class name in 'a photo'"),
        ({"templates": "\n"}, "is empty"),
    )
    def test_errors(self, texts, message):
        files = {what: self.write(what, text) for what, text in texts.items()}
        with self.assertRaisesRegex(UserError, message):
            self.measure(**files)
        with self.assertRaisesRegex(UserError, "No such file"):
            self.measure(names="/nowhere")

    def test_where_it_applies(self):
        self.assertTrue(ZeroShot().applies(self.subject))
        numbered = self.make(tuple("012345"))
        self.assertFalse(ZeroShot().applies(numbered))
        self.assertTrue(ZeroShot(names="names.txt").applies(numbered))
        self.assertFalse(ZeroShot().applies(Subject(None, self.subject.images, Probe())))
        silent = Subject(Encoder({}, {}, None), self.subject.images, Probe())
        self.assertFalse(ZeroShot().applies(silent))


if __name__ == "__main__":
    absltest.main()
