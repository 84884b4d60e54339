"""Linear segmentation of images whose colours are their classes, and its measure."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from absl.testing import absltest
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.evals.dense_heads import Head
from ssl_jax.evals.dense_training import Layer, logits_of
from ssl_jax.evals.protocols import segmentation
from ssl_jax.evals.protocols.segmentation import Segmentation
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Encoder

COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


def subject(encoder=None, devices=1):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    view = View(32, recipe="normalize")
    train = SimpleNamespace(source=SimpleNamespace(value_range=()))
    images = SimpleNamespace(mesh=mesh, channels=3, view=view, train=train)
    return SimpleNamespace(encoder=encoder, images=images)


def save(folder, name, image, mask):
    for kind, array, ending in (("images", image, "bmp"), ("masks", mask, "png")):
        path = Path(folder, kind, f"{name}.{ending}")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def colours(folder, count, seed, first=0):
    """Blocks of 8 x 8 pixels of three colours; `first` is the number of the first of them."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        classes = rng.integers(0, 3, (4, 4)).repeat(8, 0).repeat(8, 1)
        noise = rng.integers(-20, 20, (32, 32, 3))
        image = (COLOURS[classes].astype(int) + noise).astype(np.uint8)
        save(folder, f"{i:02d}", image, (classes + first).astype(np.uint8))


class SegmentationTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.train = self.enterContext(tempfile.TemporaryDirectory())
        self.test = self.enterContext(tempfile.TemporaryDirectory())

    def measure(self, where, **how):
        settings = {"size": 32, "patch": 2, "steps": 60, "batch_size": 4, "lr": 0.3} | how
        protocol = Segmentation(train=self.train, test=self.test, **settings)
        self.assertTrue(protocol.applies(where))
        with jax.set_mesh(where.images.mesh):
            return protocol.measure(where)

    def test_colours_are_classes(self):
        colours(self.train, 10, 0)
        colours(self.test, 5, 1)
        numbers = self.measure(subject())
        self.assertGreater(numbers["segmentation_miou"], 0.85)
        self.assertGreater(numbers["segmentation_pixel_accuracy"], 0.9)
        self.assertFalse(Segmentation().applies(subject()))
        for devices in (2, 3):  # 3 does not divide the batch
            more = self.measure(subject(devices=devices))
            self.assertAlmostEqual(
                more["segmentation_miou"], numbers["segmentation_miou"], places=4
            )

    def test_blocks_with_one_class_each(self):
        """An image of one class has nothing to smooth: no error is left."""
        for folder in (self.train, self.test):
            for i, colour in enumerate(COLOURS):
                image = np.broadcast_to(colour, (40, 20, 3))
                save(folder, str(i), image, np.full((40, 20), i, np.uint8))
        self.assertEqual(self.measure(subject(), batch_size=3)["segmentation_miou"], 1)

    def test_a_trained_network_s_stage(self):
        colours(self.train, 4, 0)
        colours(self.test, 2, 1)
        net = vit(None, 4, 32, dim=16, depth=2, heads=2)
        encoder = Encoder(*net.init(jax.random.key(0)), net)
        numbers = self.measure(subject(encoder), stage=0, steps=40, lr=0.03)
        self.assertGreater(numbers["segmentation_miou"], 0.5)
        with self.assertRaisesRegex(UserError, "does not divide an image of 30 x 30"):
            self.measure(subject(encoder), size=30)
        with self.assertRaisesRegex(UserError, "no stage 5"):
            self.measure(subject(encoder), stage=5)

    def test_zero_and_ignored_labels(self):
        colours(self.train, 3, 0, first=1)
        mask = np.array([[0, 1], [3, 255]], np.uint8)
        save(self.test, "a", np.zeros((2, 2, 3), np.uint8), mask)
        scenes = Scenes.of(self.test, 2, 3, reduce_zero_label=True)
        np.testing.assert_array_equal(scenes.mask(0), [[IGNORED, 0], [2, IGNORED]])
        self.assertEqual(scenes.num_classes(), 3)
        self.assertEqual(Scenes.of(self.train, 32, 3, True).num_classes(), 3)
        self.assertEqual(Scenes.of(self.train, 32, 3, False).num_classes(), 4)

    def test_errors(self):
        with self.assertRaisesRegex(UserError, "no such folder"):
            self.measure(subject())
        with self.assertRaisesRegex(UserError, "give both, train and test"):
            Segmentation(train="x")
        colours(self.train, 1, 0)
        save(self.test, "a", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))
        with self.assertRaisesRegex(UserError, "8-bit indices"):
            self.measure(subject())


class MeasureTest(absltest.TestCase):
    def test_scores_are_scikit_learns(self):
        rng = np.random.default_rng(0)
        true, predicted = rng.integers(0, 4, 300), rng.integers(0, 5, 300)
        counts = confusion_matrix(true, predicted, labels=range(6))
        numbers = segmentation.scores(counts)
        expected = jaccard_score(true, predicted, average="macro")
        self.assertAlmostEqual(numbers["miou"], expected, places=12)
        self.assertAlmostEqual(numbers["pixel_accuracy"], np.mean(true == predicted), places=12)
        with self.assertRaisesRegex(UserError, "no pixel"):
            segmentation.scores(np.zeros((2, 2), int))

    def test_ignored_pixels_count_neither_in_the_measure_nor_in_training(self):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
        masks = rng.integers(0, 3, (2, 8, 8), dtype=np.uint8)
        layer = Layer(View(8, recipe="normalize"), (-1,), 4)
        head = Head("linear", (48,), 0, 3)
        params, stats = head.init(0)
        params["weight"] = rng.normal(size=(48, 3)).astype(np.float32)
        masks[0, :5] = IGNORED
        weights, batch = (params, stats), (images, masks)
        confusion = np.asarray(segmentation._confusion(weights, None, batch, head, layer))
        logits = logits_of(weights, None, images, head, layer)
        logits = jax.image.resize(logits, (2, 8, 8, 3), "linear")
        scored = masks != IGNORED
        expected = confusion_matrix(masks[scored], np.argmax(logits, -1)[scored], labels=range(3))
        np.testing.assert_array_equal(confusion, expected)

        real = np.array([True, True])
        nothing = np.full_like(masks, IGNORED)
        self.assertEqual(segmentation.pixel_loss(logits, nothing, real), 0)
        self.assertFalse(np.any(jax.grad(segmentation.pixel_loss)(logits, nothing, real)))
        first = np.array([True, False])
        own = np.log(np.sum(np.exp(logits[0]), -1)) - np.take_along_axis(
            np.asarray(logits[0]), np.minimum(masks[0], 2)[..., None].astype(int), -1
        ).squeeze(-1)
        self.assertAlmostEqual(
            float(segmentation.pixel_loss(logits, masks, first)), own[scored[0]].mean(), places=4
        )


if __name__ == "__main__":
    absltest.main()
