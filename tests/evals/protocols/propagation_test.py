"""Label propagation against a loop over tokens, and on videos with known masks."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.protocols import propagation
from ssl_jax.evals.protocols.propagation import Propagation
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.objectives.base import Encoder

VIEW = View(32, recipe="normalize")


def naive(target, features, masks, valid, radius, k, temperature):
    out = np.zeros((*target.shape[:2], masks.shape[-1]))
    for i, j in np.ndindex(*target.shape[:2]):
        neighbours = []
        for n, a, b in np.ndindex(*features.shape[:3]):
            if valid[n] and abs(a - i) <= radius and abs(b - j) <= radius:
                weight = np.exp(target[i, j] @ features[n, a, b] / temperature)
                neighbours.append((weight, masks[n, a, b]))
        best = sorted(neighbours, key=lambda pair: -pair[0])[:k]
        out[i, j] = sum(w * m for w, m in best) / sum(w for w, _ in best)
    return out


def subject(encoder=None, devices=1):
    mesh = sharding.make_mesh(sharding.MeshConfig(data=devices), jax.devices()[:devices])
    train = SimpleNamespace(source=SimpleNamespace(value_range=()))
    images = SimpleNamespace(mesh=mesh, channels=3, view=VIEW, train=train)
    return SimpleNamespace(encoder=encoder, images=images)


def scene(tops, shape=(64, 128), single=True):
    """Create frames of a red square and, unless single, a blue one below, on green; and masks."""
    for top in tops:
        frame, mask = np.full((*shape, 3), (20, 160, 30), np.uint8), np.zeros(shape, np.uint8)
        frame[8:24, top : top + 16], mask[8:24, top : top + 16] = (220, 30, 20), 1
        if not single:
            frame[40:56, 8:24], mask[40:56, 8:24] = (10, 20, 230), 2
        yield frame, mask * (255 if single else 1)


def halves(count):
    """Create frames whose left half is the object: without corners, which bilinear logits round."""
    frame, mask = np.full((64, 128, 3), 200, np.uint8), np.zeros((64, 128), np.uint8)
    frame[:, :64, 1:], mask[:, :64] = 20, 255
    return [(frame, mask)] * count


def write(folder, name, frames):
    for i, (frame, mask) in enumerate(frames):
        for kind, array in (("frames", frame), ("masks", mask)):
            path = Path(folder, kind, name, f"{i:05d}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


class PropagateTest(parameterized.TestCase):
    @parameterized.parameters((1, 5), (2, 3), (9, 5), (2, 1000))
    def test_equals_a_loop_over_tokens(self, radius, k):
        rng = np.random.default_rng(0)
        features = rng.normal(size=(4, 5, 6, 3)).astype(np.float32)
        features /= np.linalg.norm(features, axis=-1, keepdims=True)
        masks = rng.random((3, 5, 6, 2)).astype(np.float32)
        args = (features[3], features[:3], masks, np.array([True, False, True]), radius, k, 0.1)
        prediction = jax.jit(propagation.propagate, static_argnums=(4, 5, 6))(*args)
        np.testing.assert_allclose(prediction, naive(*args), rtol=2e-5, atol=1e-6)

    def test_the_ring_holds_the_first_and_the_last_frames(self):
        rng = np.random.default_rng(0)
        maps = rng.normal(size=(9, 1, 2, 2, 3)).astype(np.float32)
        memory, finite = propagation._begin(maps[0], np.ones((1, 2, 2, 2), np.float32), 3)
        self.assertTrue(finite.all())
        for frame in maps[1:]:
            memory, _ = propagation._advance(memory, frame, (4, 4), 1, 5, 0.1)
        unit = maps / np.linalg.norm(maps, axis=-1, keepdims=True)
        np.testing.assert_allclose(memory.features[0, 0], unit[0, 0], rtol=1e-6)
        frames = {round(float(x), 5) for x in memory.features[0, 1:, 0, 0, 0]}
        self.assertEqual(frames, {round(float(x), 5) for x in unit[-3:, 0, 0, 0, 0]})


class VideosTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.enterContext(tempfile.TemporaryDirectory())

    def measure(self, encoder=None, devices=1, **how):
        settings = {"size": 64, "patch": 4, "context": 3} | how
        protocol = Propagation(data=self.folder, **settings)
        self.assertTrue(protocol.applies(subject()))
        where = subject(encoder, devices)
        with jax.set_mesh(where.images.mesh):
            return protocol.measure(where)

    def test_without_videos_it_does_not_apply(self):
        self.assertFalse(Propagation().applies(subject()))

    @parameterized.parameters(True, False)
    def test_moving_squares_of_their_own_colours(self, single):
        write(self.folder, "a", scene(range(8, 40, 4), single=single))
        numbers = self.measure()
        self.assertGreater(numbers["propagation_j"], 0.97)
        self.assertGreater(numbers["propagation_f"], 0.97)
        self.assertLess(numbers["propagation_copy_first_jf"], 0.8)

    def test_a_still_video_is_copied(self):
        write(self.folder, "a", halves(5))
        numbers = self.measure()
        for name in ("j", "f", "jf", "copy_first_jf"):
            self.assertEqual(numbers[f"propagation_{name}"], 1)

    def test_the_first_and_the_last_frame_are_not_scored(self):
        empty = np.zeros((64, 128, 3), np.uint8), np.zeros((64, 128), np.uint8)
        frames = [*halves(3), empty]
        write(self.folder, "a", frames)
        self.assertEqual(self.measure()["propagation_jf"], 1)

    def test_devices_and_shapes(self):
        write(self.folder, "a", scene(range(8, 28, 4)))
        write(self.folder, "b", scene(range(8, 36, 8), single=False))
        write(self.folder, "c", scene(range(8, 28, 4), (80, 100)))
        one, two = self.measure(), self.measure(devices=2)
        self.assertEqual(one, two)

    def test_one_compile_a_shape(self):
        for i in range(3):
            write(self.folder, f"v{i}", scene(range(8, 20 + 4 * i, 4)))
        propagation._advance.clear_cache()
        self.measure()
        self.assertEqual(propagation._advance._cache_size(), 1)

    def test_stages_of_networks(self):
        write(self.folder, "a", scene(range(8, 20, 4)))
        for net, stage in (
            (vit(None, 8, 32, dim=8, depth=2, heads=2), -1),
            (vit(None, 8, 32, dim=8, depth=2, heads=2), 0),
            (resnet_small(width=4), 1),
        ):
            encoder = Encoder(*net.init(jax.random.key(0)), net)
            numbers = self.measure(encoder, stage=stage)
            self.assertBetween(numbers["propagation_jf"], 0, 1)
        with self.assertRaisesRegex(UserError, "no stage 7"):
            self.measure(encoder, stage=7)

    def test_features_that_are_not_finite(self):
        write(self.folder, "a", halves(3))
        net = resnet_small(width=4)
        params, stats = net.init(jax.random.key(0))
        params = jax.tree.map(lambda x: x * np.nan, params)
        with self.assertRaisesRegex(NotMeasurable, "features of the frames are not finite"):
            self.measure(Encoder(params, stats, net), stage=1)

    def test_errors(self):
        with self.assertRaisesRegex(UserError, "expected videos"):
            self.measure()
        write(self.folder, "a", scene([8, 8]))
        with self.assertRaisesRegex(UserError, "a: expected at least 3 frames .* got 2"):
            self.measure()
        write(self.folder, "a", scene(range(8, 20, 4)))
        with self.assertRaisesRegex(UserError, "patches of 7 pixels do not divide"):
            self.measure(patch=7)
        net = vit(None, 7, 28, dim=8, depth=1, heads=2)
        with self.assertRaisesRegex(UserError, "7 pixels does not divide an image of 64 x 128"):
            self.measure(Encoder(*net.init(jax.random.key(0)), net))
        with self.assertRaisesRegex(UserError, "propagation.k: expected .* of at least 1"):
            Propagation(k=0)

    def test_sizes(self):
        self.assertEqual(propagation.resized((480, 854), 480), (480, 832))
        self.assertEqual(propagation.resized((854, 480), 480), (832, 480))
        with self.assertRaisesRegex(UserError, "leaves less than 64"):
            propagation.resized((10, 10), 32)


if __name__ == "__main__":
    absltest.main()
