"""Patches in boxes: their targets and average precision by hand, and squares that colours tell."""

from pathlib import Path

import jax
import numpy as np
import pytest
from absl.testing import absltest

from ssl_jax.core import sharding
from ssl_jax.core.inputs import View
from ssl_jax.data.boxes import Objects
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals.base import Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.box_patches import BoxPatches, patch_targets, precisions
from ssl_jax.objectives.base import Probe
from tests.data.boxes_test import write_coco


def squares(root, part, count, seed):
    """Write noisy images (32, 48), each with a red and a green square of 16 pixels."""
    rng = np.random.default_rng(seed)
    pictures, objects = [], []
    for i in range(count):
        picture = rng.integers(0, 60, (32, 48, 3), np.uint8)
        for kind in range(2):
            x, y = 24 * kind + 8 * rng.integers(0, 2), 8 * rng.integers(0, 3)
            picture[y : y + 16, x : x + 16, kind] += 150
            objects.append((i, kind, [int(x), int(y), 16, 16], {}))
        pictures.append(picture)
    write_coco(root, part, pictures, ("red", "green"), objects)


class BoxPatchesTest(absltest.TestCase):
    def test_targets(self):
        corners = np.array([[0, 0, 10, 10], [5, 5, 20, 10], [15, 0, 20, 10]], np.float32)
        objects = Objects(corners, np.array([0, 1, 0]), np.array([False, False, True]), (None,) * 3)
        targets = patch_targets(objects, (10, 20), (2, 4), 2)  # centres 2.5, 7.5, 12.5, 17.5
        np.testing.assert_array_equal(targets[..., 0], [[1, 1, 0, -1], [1, 1, 1, 1]])
        np.testing.assert_array_equal(targets[..., 1], [[1, 1, 0, -1], [1, 1, 0, -1]])
        np.testing.assert_array_equal(targets[..., 2], [[0, 0, 0, 0], [0, 1, 1, 1]])

    def test_precisions_by_hand(self):
        targets = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 0], [-1, -1, 0], [0, 0, 0]], np.int8)
        scores = np.array([[4, 9, 0], [3, 8, 1], [2, 7, 0], [9, 9, 0], [1, 1, 0]], np.float32)
        numbers = precisions(scores, targets)
        self.assertAlmostEqual(numbers["box_patches_object"], (1 + 2 / 3) / 2)
        self.assertAlmostEqual(numbers["box_patches_map"], (1 + 2 / 3) / 2)  # no patch of class 2
        self.assertEqual(numbers["box_patches_share"], 0.5)
        flat = precisions(np.ones_like(scores), targets)
        self.assertTrue(np.isnan(flat["box_patches_object"]))
        with self.assertRaisesRegex(NotMeasurable, "no evaluation patch is in an object"):
            precisions(scores, np.zeros_like(targets))

    @pytest.mark.full
    def test_colours_tell_the_squares(self):
        root = Path(self.create_tempdir().full_path)
        squares(root, "train", 8, 0)
        squares(root, "val", 3, 1)
        numbers = {}
        for devices in (1, 2):
            mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
            other = ArraySource("other", np.zeros((4, 8, 8, 3), np.uint8), None)
            how = {"view": View(32, recipe="normalize"), "channels": 3, "batch_size": 2}
            subject = Subject(None, Images.of(other, other, 4, 4, **how, mesh=mesh), Probe())
            protocol = BoxPatches(
                train=f"coco:{root}", size=32, patch=4, steps=60, batch_size=4, lr=0.1
            )
            self.assertTrue(protocol.applies(subject))
            self.assertFalse(BoxPatches().applies(subject))
            with jax.set_mesh(mesh):
                numbers[devices] = protocol.measure(subject)
        self.assertGreater(numbers[1]["box_patches_map"], 0.9)
        self.assertGreater(numbers[1]["box_patches_object"], 0.9)
        self.assertBetween(numbers[1]["box_patches_share"], 0.3, 0.4)
        for name, value in numbers[1].items():
            self.assertAlmostEqual(numbers[2][name], value, places=3)


if __name__ == "__main__":
    absltest.main()
