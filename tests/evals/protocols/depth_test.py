"""Depths and normals of images whose brightness tells them, and their parts by hand."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.evals.protocols import depth, normals
from ssl_jax.evals.protocols.depth import Depth
from ssl_jax.evals.protocols.normals import Normals
from ssl_jax.evals.protocols.segmentation_heads import SegmentationHeads

NORMALS = np.array([[0, 0, 1.0], [0.6, 0, 0.8], [0, -0.8, 0.6]])


def subject(devices=1):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    view = View(32, recipe="normalize")
    train = SimpleNamespace(source=SimpleNamespace(value_range=()))
    images = SimpleNamespace(mesh=mesh, channels=3, view=view, train=train)
    return SimpleNamespace(encoder=None, images=images)


class Case(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)

    def save(self, path, array):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(file)

    def scenes(self, name, count, seed):
        """Blocks of 8 x 8 pixels whose class, depth and normal are told by their colour."""
        rng = np.random.default_rng(seed)
        colours = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]])
        for i in range(count):
            blocks = rng.integers(0, 3, (4, 6)).repeat(8, 0).repeat(8, 1)
            image = colours[blocks] + rng.integers(-9, 9, (32, 48, 3))
            metres = np.array([1.0, 2.5, 7.0])[blocks]
            metres[:3] = 0
            self.save(f"{name}/images/{i}.png", image.astype(np.uint8))
            self.save(f"{name}/masks/{i}.png", blocks.astype(np.uint8))
            self.save(f"{name}/depth/{i}.png", (1000 * metres).astype(np.uint16))
            coded = np.round(127.5 * (NORMALS[blocks] + 1)).astype(np.uint8)
            coded[:3] = 0
            self.save(f"{name}/normals/{i}.png", coded)

    def measure(self, kind, devices=1, **settings):
        self.scenes("train", 8, 0)
        self.scenes("test", 3, 1)
        usual = {"size": 32, "patch": 4, "steps": 60, "batch_size": 4, "lr": 0.1}
        usual |= {"train": str(self.root / "train"), "test": str(self.root / "test")}
        some, protocol = subject(devices), kind(**usual | settings)
        self.assertTrue(protocol.applies(some))
        with jax.set_mesh(some.images.mesh):
            return protocol.measure(some)


class DepthTest(Case):
    def test_colours_tell_the_depth(self):
        """No constant is right for more than a third; edges of blocks are mixed."""
        numbers = self.measure(Depth, steps=150)
        self.assertGreater(numbers["depth_delta1"], 0.5)
        self.assertLess(numbers["depth_abs_rel"], 0.4)
        many = self.measure(Depth, devices=3, steps=150)
        self.assertAlmostEqual(many["depth_rmse"], numbers["depth_rmse"], places=3)

    def test_lists_of_files(self):
        self.scenes("data", 2, 0)
        (self.root / "data/list.txt").write_text(
            "images/0.png depth/0.png 518.85\n/images/1.png /depth/1.png\nimages/1.png None 1\n"
        )
        files = depth.depth_pairs(str(self.root / "data/list.txt"))
        names = [tuple(str(f.relative_to(self.root / "data")) for f in pair) for pair in files]
        expected = [("images/0.png", "depth/0.png"), ("images/1.png", "depth/1.png")]
        self.assertEqual(names, expected)
        (self.root / "data/list.txt").write_text("images/0.png\n")
        with self.assertRaisesRegex(UserError, "line 1: expected IMAGE DEPTH"):
            depth.depth_pairs(str(self.root / "data/list.txt"))
        (self.root / "data/list.txt").write_text("a b\n")
        with self.assertRaisesRegex(UserError, "no pair of files in it"):
            depth.depth_pairs(str(self.root / "data/list.txt"))

    def test_files_of_depths(self):
        self.save("a.png", np.array([[0, 1500], [65535, 10]], np.uint16))
        metres = depth.read_depth(self.root / "a.png", 1000.0)
        np.testing.assert_allclose(metres, [[0, 1.5], [65.535, 0.01]], rtol=1e-6)
        np.testing.assert_allclose(Depth()._known(metres), [[0, 1.5], [0, 0.01]], rtol=1e-6)
        self.save("b.png", np.zeros((2, 2, 3), np.uint8))
        with self.assertRaisesRegex(UserError, "expected one channel of depths, got shape"):
            depth.read_depth(self.root / "b.png", 1000.0)

    def test_crops(self):
        ones = np.ones((480, 640), np.float32)
        rows, columns = np.nonzero(Depth(crop="eigen")._scored(ones))
        self.assertEqual((rows.min(), rows.max(), columns.min(), columns.max()), (45, 470, 41, 600))
        garg = Depth(crop="garg")._scored(np.ones((375, 1242), np.float32))
        rows, columns = np.nonzero(garg)
        self.assertEqual((rows.min(), rows.max()), (153, 370))
        self.assertEqual((columns.min(), columns.max()), (44, 1196))
        self.assertEqual(Depth()._scored(ones).sum(), ones.size)

    def test_the_loss_by_hand(self):
        logits = np.random.default_rng(0).normal(size=(3, 2, 2, 5)).astype(np.float32)
        weights = np.maximum(logits, 0) + 0.1
        bins = np.linspace(1e-3, 1, 5)
        predicted = (weights * bins).sum(-1) / weights.sum(-1)
        np.testing.assert_allclose(depth.expected_depth(logits), predicted, rtol=1e-5)
        truth = np.random.default_rng(1).uniform(0.1, 1, (3, 2, 2)).astype(np.float32)
        truth[0, 0] = 0
        real = np.array([True, True, False])
        g = (np.log(predicted) - np.log(np.where(truth > 0, truth, 1)))[:2][truth[:2] > 0]
        expected = 10 * np.sqrt(np.var(g) + 0.15 * np.mean(g) ** 2)
        self.assertAlmostEqual(
            float(depth.scale_invariant_loss(logits, truth, real)), expected, places=4
        )
        gradient = jax.grad(depth.scale_invariant_loss)(jnp.asarray(logits), 0 * truth, real)
        self.assertTrue(np.isfinite(gradient).all())

    def test_bad_settings(self):
        with self.assertRaisesRegex(UserError, "depth: give both, train and test"):
            Depth(train="x")
        with self.assertRaisesRegex(UserError, "expected far above"):
            Depth(far=1e-4)
        self.assertFalse(Depth().applies(subject()))


class NormalsTest(Case):
    def test_colours_tell_the_normal(self):
        numbers = self.measure(Normals, lr=0.01, steps=200)
        self.assertLess(numbers["normals_median"], 15)
        self.assertGreater(numbers["normals_within_30"], 0.6)

    def test_files_of_normals(self):
        coded = np.round(127.5 * (NORMALS[None] + 1)).astype(np.uint8)
        self.save("a.png", np.concatenate([coded, 0 * coded]))
        out = normals.read_normals(self.root / "a.png")
        np.testing.assert_allclose(out[0], NORMALS, atol=0.01)
        np.testing.assert_array_equal(out[1], 0)

    def test_the_loss_by_hand(self):
        predicted = np.array([[[[2.0, 0, 0], [0, 1, 0]]]], np.float32)
        truth = np.array([[[[1.0, 0, 0], [0, 0, 0]]]], np.float32)
        real = np.array([True])
        self.assertAlmostEqual(float(normals.cosine_loss(predicted, truth, real)), 0, places=5)
        self.assertAlmostEqual(float(normals.cosine_loss(-predicted, truth, real)), 2, places=5)
        with self.assertRaisesRegex(UserError, "give both folders"):
            Normals(test="x")


class SegmentationHeadsTest(Case):
    @parameterized.parameters("linear", "fcn", "upernet")
    def test_colours_are_classes(self, head):
        settings = {"head": head, "size": 16, "lr": 0.03}
        settings |= {} if head == "linear" else {"channels": 8}
        numbers = self.measure(SegmentationHeads, **settings)
        self.assertGreater(numbers["segmentation_heads_miou"], 0.5)

    def test_devices_and_scales(self):
        settings = {"head": "linear", "size": 16, "steps": 20, "stride": 8}
        one = self.measure(SegmentationHeads, **settings)
        many = self.measure(SegmentationHeads, devices=3, **settings)
        name = "segmentation_heads_miou"
        self.assertAlmostEqual(one[name], many[name], places=3)
        two = self.measure(SegmentationHeads, scales=(1.0, 1.5), **settings)
        self.assertGreater(two[name], 0.3)

    def test_bad_settings(self):
        for settings, message in (
            ({"train": "x"}, "give both folders"),
            ({"scales": ()}, "give scales"),
            ({"stride": 600}, "stride = 600 leaves gaps"),
        ):
            with self.assertRaisesRegex(UserError, message):
                SegmentationHeads(**settings)
        self.assertIn("channels", SegmentationHeads(head="linear").unused())


if __name__ == "__main__":
    absltest.main()
