"""Depths and normals of images whose brightness tells them, and their parts by hand."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.evals.protocols import depth, normals
from ssl_jax.evals.protocols.depth import Depth, DepthLoss
from ssl_jax.evals.protocols.normals import Normals
from ssl_jax.evals.protocols.segmentation_heads import SegmentationHeads
from ssl_jax.nets.backbones.resnet import resnet_custom
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Encoder

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
        (self.root / "data/list.txt").write_text("images/0.png None\n")
        with self.assertRaisesRegex(UserError, "no pair of files in it"):
            depth.depth_pairs(str(self.root / "data/list.txt"))

    @parameterized.parameters("images/9.png depth/0.png", "images/0.png depth/9.png")
    def test_every_file_of_a_list_is_checked(self, second):
        self.scenes("data", 1, 0)
        (self.root / "data/list.txt").write_text(f"images/0.png depth/0.png\n\n{second}\n")
        with self.assertRaisesRegex(UserError, r"list.txt: line 3: no file .*/9.png; paths are"):
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
        loss = DepthLoss(binned=True, gradient=0.0)
        self.assertAlmostEqual(float(loss(logits, truth, real)), expected, places=4)
        gradient = jax.grad(loss)(jnp.asarray(logits), 0 * truth, real)
        self.assertTrue(np.isfinite(gradient).all())
        direct = depth.direct_depth(np.array([[0.2], [-3.0]], np.float32))
        np.testing.assert_allclose(direct, [0.701, 0.001], rtol=1e-5)

    def test_the_gradient_loss_by_hand(self):
        draw = np.random.default_rng(0)
        predicted, truth = draw.uniform(0.1, 1, (2, 2, 8, 9)).astype(np.float32)
        truth[0, 2:4, 3] = 0
        g = np.where(truth > 0, np.log(predicted) - np.log(np.where(truth > 0, truth, 1)), 0)[0]
        known, total = truth[0] > 0, 0.0
        for stride in (1, 2, 4, 6):
            x, valid = g[::stride, ::stride], known[::stride, ::stride]
            height, width = x.shape
            for i in range(height):
                for j in range(width):
                    for k, m in ((i + 2, j), (i, j + 2)):
                        if k < height and m < width and valid[i, j] and valid[k, m]:
                            total += abs(x[i, j] - x[k, m]) / valid.sum()
        real = np.array([True, False])
        loss = jax.jit(depth.gradient_loss)
        self.assertAlmostEqual(float(loss(predicted, truth, real)), total, places=4)

    @pytest.mark.full
    def test_the_gradient_loss_is_added(self):
        draw = np.random.default_rng(0)
        truth, real = draw.uniform(0.1, 1, (2, 8, 9)).astype(np.float32), np.array([True, True])
        logits = jnp.asarray(draw.normal(size=(2, 4, 4, 5)), jnp.float32)
        plain, both = (DepthLoss(True, weight)(logits, truth, real) for weight in (0.0, 0.5))
        shares = jax.image.resize(depth.expected_depth(logits), truth.shape, "linear")
        added = depth.gradient_loss(shares, truth, real)
        self.assertAlmostEqual(float(both - plain), 0.5 * float(added), places=4)
        gradient = jax.grad(DepthLoss(True, 0.5))(logits, 0 * truth, real)
        self.assertTrue(np.isfinite(gradient).all())

    def test_bad_settings(self):
        with self.assertRaisesRegex(UserError, "depth: give both, train and test"):
            Depth(train="x")
        with self.assertRaisesRegex(UserError, "expected far above"):
            Depth(far=1e-4)
        with self.assertRaisesRegex(UserError, "depth.stages: head=dpt reads 4 stages, got 1"):
            Depth(head="dpt", stages=(-1,))
        self.assertIn("channels", Depth().unused())
        self.assertEqual(Depth(head="dpt").unused(), {})
        self.assertFalse(Depth().applies(subject()))


def ramp(rng):
    """Return an image (32, 32, 3) of a brightness ramp, and its depths in millimetres."""
    low, high = rng.uniform(0.05, 0.4), rng.uniform(0.6, 0.95)
    share = np.linspace(low, high, 32)[:, None].repeat(32, 1)
    share = np.rot90(share, rng.integers(4))
    image = np.round(255 * share)[..., None].repeat(3, -1)
    return image.astype(np.uint8), np.round(8000 * share + 500).astype(np.uint16)


@pytest.mark.full
class DPTHeadTest(Case):
    """DPT on raw patches, whose mean brightness is the depth."""

    def ramps(self, name, count, seed):
        rng = np.random.default_rng(seed)
        depths = []
        for i in range(count):
            image, millimetres = ramp(rng)
            self.save(f"{name}/images/{i}.png", image)
            self.save(f"{name}/depth/{i}.png", millimetres)
            depths.append(millimetres / 1000)
        return np.stack(depths)

    def measured(self, train, test, **settings):
        usual = {"head": "dpt", "channels": 8, "size": 32, "patch": 8, "lr": 3e-3}
        usual |= {"steps": 80, "batch_size": 4}
        folders = {"train": str(self.root / train), "test": str(self.root / test)}
        some = subject()
        with jax.set_mesh(some.images.mesh):
            return Depth(**folders, **usual | settings).measure(some)

    def test_beats_the_mean_on_other_ramps(self):
        self.ramps("train", 12, 0)
        other = self.ramps("test", 5, 1)
        mean = np.sqrt(np.mean((other - other.mean()) ** 2))
        numbers = self.measured("train", "test")
        self.assertLess(numbers["depth_rmse"], 0.6 * mean)

    def test_learns_a_few_images_by_heart(self):
        """Their depths are not told by the images, which are noise."""
        rng, depths = np.random.default_rng(0), []
        for i in range(3):
            self.save(f"a/images/{i}.png", rng.integers(0, 256, (16, 16, 3)).astype(np.uint8))
            depths.append(1000 * rng.integers(1, 9, (2, 2)).repeat(8, 0).repeat(8, 1))
            self.save(f"a/depth/{i}.png", depths[-1].astype(np.uint16))
        spread = np.std(np.stack(depths) / 1000)
        numbers = self.measured("a", "a", size=16, steps=150, batch_size=3, lr=0.01)
        self.assertLess(numbers["depth_rmse"], 0.5 * spread)

    @parameterized.parameters("ignore", "project")
    def test_gradients_reach_every_part_of_the_head(self, readout):
        net = vit(None, 8, 32, dim=8, depth=4, heads=2)
        encoder = Encoder(*net.init(jax.random.key(0)), net)
        some = SimpleNamespace(encoder=encoder, images=subject().images)
        protocol = Depth(head="dpt", channels=4, size=32, readout=readout)
        layer = protocol.layer(some)
        self.assertEqual(layer.stages, (0, 1, 2, 3))
        head = protocol.head_of(layer.shapes(some, 32), 1, layer.class_token)
        params, stats = head.init(0)
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
        truth, real = np.full((2, 32, 32), 0.3, np.float32), np.array([True, True])
        truth[:, :16] = 0.9
        maps = layer.maps(encoder, images)

        def loss(params):
            return DepthLoss(False, 0.5)(head.apply(params, stats, maps, real)[0], truth, real)

        for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
            self.assertTrue(np.isfinite(gradient).all(), path)
            self.assertTrue(np.any(gradient), path)

    def test_a_pyramid_is_not_reassembled(self):
        net = resnet_custom((1, 1, 1, 1), (4, 4, 4, 4), stem="small", channels=3)
        encoder = Encoder(*net.init(jax.random.key(0)), net)
        some = SimpleNamespace(encoder=encoder, images=subject().images)
        protocol = Normals(head="dpt", channels=4, size=32)
        layer = protocol.layer(some)
        shapes = layer.shapes(some, 32)
        self.assertFalse(protocol.head_of(shapes, 3, False).reassemble)
        with self.assertRaisesRegex(UserError, "normals.readout: project reads one map size"):
            protocol.head_of(shapes, 3, True)
        with self.assertRaisesRegex(UserError, "readout=project: the network has no class token"):
            Normals(readout="project").layer(some).shapes(some, 32)
        self.scenes("train", 3, 0)
        folder = str(self.root / "train")
        how = {"size": 32, "steps": 20, "batch_size": 2, "lr": 0.01, "channels": 8}
        with jax.set_mesh(some.images.mesh):
            numbers = Normals(head="dpt", train=folder, test=folder, **how).measure(some)
        self.assertLess(numbers["normals_median"], 90)


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
        with self.assertRaisesRegex(UserError, "give both, train and test"):
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
            ({"train": "x"}, "give both, train and test"),
            ({"scales": ()}, "give scales"),
            ({"stride": 600}, "stride = 600 leaves gaps"),
        ):
            with self.assertRaisesRegex(UserError, message):
                SegmentationHeads(**settings)
        self.assertIn("channels", SegmentationHeads(head="linear").unused())


if __name__ == "__main__":
    absltest.main()
