"""Per-patch probes on images whose patches show their class, from masks and from labels."""

import tempfile
from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest
from PIL import Image

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources.base import ArraySource
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols import patches
from ssl_jax.evals.protocols.patches import Patches
from ssl_jax.objectives.base import Probe

COLOURS = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]], np.uint8)


def subject(count=40, labelled=True, devices=1):
    """Create noise images with three of four quarters in the colour of their label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, count)
    images = np.broadcast_to(COLOURS[labels][:, None, None], (count, 16, 16, 3)).copy()
    images[:, :8, :8] = rng.integers(0, 256, (count, 8, 8, 3))
    source = ArraySource("x", images, labels if labelled else None)
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    how = {"view": View(16, recipe="normalize"), "channels": 3, "batch_size": 16, "mesh": mesh}
    return Subject(None, Images.of(source, None, 100, 100, **how), Probe())


class PatchesTest(absltest.TestCase):
    def test_labels_from_patches_and_their_vote(self):
        protocol = Patches(patch=4, per_image=8)
        self.assertTrue(protocol.applies(subject()))
        self.assertFalse(protocol.applies(subject(labelled=False)))
        numbers = protocol.measure(subject())
        # A quarter of the patches does not show the label.
        self.assertBetween(numbers["patches_top1"], 0.7, 0.95)
        self.assertEqual(numbers["patches_vote_top1"], 1)
        self.assertEqual(protocol.measure(subject(devices=2)), numbers)

    def test_masks(self):
        rng = np.random.default_rng(0)
        folders = [self.enterContext(tempfile.TemporaryDirectory()) for _ in range(2)]
        for folder in folders:
            for kind in ("images", "masks"):
                Path(folder, kind).mkdir()
            for i in range(6):
                classes = rng.integers(0, 3, (4, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
                Image.fromarray(COLOURS[classes]).save(f"{folder}/images/{i}.png")
                classes[0, 0] = 2 - classes[0, 0]  # one pixel of sixteen
                classes[4:8, 4:8] = 255
                Image.fromarray(classes).save(f"{folder}/masks/{i}.png")
        protocol = Patches(train=folders[0], test=folders[1], size=16, patch=4, per_image=16)
        self.assertTrue(protocol.applies(subject(labelled=False)))
        x, labels = protocol.of_masks(subject(), folders[0])
        self.assertEqual(x.shape, (6 * 15, 48))  # without the ignored patch
        self.assertLessEqual(labels.max(), 2)
        self.assertEqual(protocol.measure(subject(labelled=False)), {"patches_top1": 1})

    def test_majority(self):
        mask = np.array([[1, 1, 2, 3], [1, 0, 3, 3], [5, 5, 4, 4], [4, 4, 255, 255]], np.uint8)
        np.testing.assert_array_equal(patches.majority(mask, (2, 2)), [[1, 3], [4, 4]])
        with self.assertRaisesRegex(UserError, "3 x 2 patches do not divide"):
            patches.majority(mask, (3, 2))

    def test_errors(self):
        with self.assertRaisesRegex(UserError, "give both folders"):
            Patches(train="x")
        with self.assertRaisesRegex(UserError, "one class only"):
            patches.probabilities(np.zeros((3, 2)), np.zeros(3), np.zeros((1, 2)))


if __name__ == "__main__":
    absltest.main()
