"""Heads of dense predictions, and windows, by hand."""

import tempfile
from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.data.masks import IGNORED, Scenes
from ssl_jax.evals import windows
from ssl_jax.evals.dense_heads import Head

RNG = np.random.default_rng(0)


def maps(sizes, widths, count=2):
    return [
        RNG.normal(size=(count, side, side, width)).astype(np.float32)
        for side, width in zip(sizes, widths, strict=True)
    ]


def by_hand(x, weight, scale, offset, real):
    """Convolve with zeros around, normalise over the real images, and rectify."""
    side = weight.shape[0]
    edge = side // 2
    padded = np.pad(x, [(0, 0), (edge, edge), (edge, edge), (0, 0)])
    height, width = x.shape[1:3]
    out = sum(
        padded[:, i : i + height, j : j + width] @ weight[i, j]
        for i in range(side)
        for j in range(side)
    )
    mean, variance = out[real].mean((0, 1, 2)), out[real].var((0, 1, 2))
    return np.maximum((out - mean) / np.sqrt(variance + 1e-5) * scale + offset, 0)


class HeadsTest(parameterized.TestCase):
    def test_linear_is_a_batch_norm_and_a_product(self):
        (x,), real = maps([4], [3], 3), np.array([True, True, False])
        head = Head("linear", (3,), 8, 5)
        params, stats = head.init(0)
        logits, fresh = head.apply(params, stats, [x], real)
        own = x[real]
        normed = (x - own.mean((0, 1, 2))) / np.sqrt(own.var((0, 1, 2)) + 1e-5)
        np.testing.assert_allclose(logits, normed @ params["weight"], atol=1e-5)
        np.testing.assert_allclose(fresh["mean"], 0.1 * own.mean((0, 1, 2)), atol=1e-6)
        logits, same = head.apply(params, stats, [x], None)
        np.testing.assert_allclose(logits, x @ params["weight"] / np.sqrt(1 + 1e-5), atol=1e-5)
        np.testing.assert_array_equal(same["mean"], stats["mean"])

    def test_fcn_written_out(self):
        x, real = maps([5], [3], 3)[0], np.array([True, True, False])
        head = Head("fcn", (3,), 4, 2)
        params, stats = head.init(1)
        logits, _ = head.apply(params, stats, [x], real)
        hidden = x
        for name in ("conv1", "conv2"):
            parts = (params[f"{name}_{part}"] for part in ("weight", "scale", "offset"))
            hidden = by_hand(hidden, *parts, real)
        np.testing.assert_allclose(logits, hidden @ params["weight"], rtol=1e-4, atol=1e-4)

    def test_maps_of_several_stages_are_joined_at_the_size_of_the_first(self):
        several = maps([4, 2], [3, 5])
        head = Head("linear", (3, 5), 8, 2)
        logits, _ = head.apply(*head.init(0), several, None)
        self.assertEqual(logits.shape, (2, 4, 4, 2))

    @parameterized.parameters(((8, 4, 2, 1), 8), ((4, 4, 4, 4), 16))
    def test_upernet_answers_at_its_largest_level(self, sizes, side):
        head = Head("upernet", (3, 4, 5, 6), 4, 7)
        params, stats = head.init(0)
        some = maps(sizes, head.widths)
        logits, fresh = jax.jit(head.apply)(params, stats, some, np.array([True, True]))
        self.assertEqual(logits.shape, (2, side, side, 7))
        changed = [name for name in stats if not np.array_equal(stats[name], fresh[name])]
        self.assertEqual(sorted(changed), sorted(stats))
        # Every level counts.
        for level in range(4):
            other = [x + (i == level) for i, x in enumerate(some)]
            moved, _ = head.apply(params, stats, other, None)
            plain, _ = head.apply(params, stats, some, None)
            self.assertGreater(np.abs(moved - plain).max(), 1e-4, level)


class WindowsTest(parameterized.TestCase):
    @parameterized.parameters(
        (10, 10, 5, [0]),
        (6, 10, 5, [0]),
        (11, 10, 5, [0, 1]),
        (20, 10, 5, [0, 5, 10]),
        (23, 10, 6, [0, 6, 12, 13]),
    )
    def test_starts(self, length, size, stride, expected):
        self.assertEqual(windows.starts(length, size, stride), expected)

    @parameterized.parameters(((13, 22),), ((5, 9),), ((8, 8),))
    def test_sliding_over_an_image_gives_it_back(self, shape):
        image = RNG.integers(0, 256, (*shape, 3)).astype(np.uint8)
        calls = []

        def predict(pixels):
            calls.append(len(pixels))
            return pixels.astype(np.float32)

        out = windows.slide(predict, image, 8, 5, 3, 2)
        np.testing.assert_allclose(out, image, rtol=1e-6)
        self.assertEqual(set(calls), {2})

    def test_windows_are_averaged(self):
        values = iter(range(1, 9))

        def predict(pixels):
            return np.full((1, 4, 4, 1), next(values), np.float32)

        out = windows.slide(predict, np.zeros((4, 6, 3), np.uint8), 4, 2, 1, 1)
        np.testing.assert_array_equal(out[0, :, 0], [1, 1, 1.5, 1.5, 2, 2])

    def test_crops(self):
        """A pixel keeps its class, and what lies outside has none."""
        with tempfile.TemporaryDirectory() as folder:
            mask = RNG.integers(0, 3, (3, 5)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
            colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
            for kind, array in (("images", colours[mask]), ("masks", mask)):
                Path(folder, kind).mkdir()
                Image.fromarray(array).save(Path(folder, kind, "a.png"))
            scenes = Scenes.of(folder, 40, 3, reduce_zero_label=False)
            outside = 0
            for seed in range(20):
                image, labels = windows.crop(scenes, 0, np.random.default_rng(seed))
                self.assertEqual((image.shape, labels.shape), ((40, 40, 3), (40, 40)))
                labelled = labels != IGNORED
                outside += int((~labelled).sum())
                self.assertFalse(image[~labelled].any())
                right = image[labelled].argmax(-1) == labels[labelled]
                self.assertGreater(right.mean(), 0.95)  # edges are mixed
            self.assertGreater(outside, 0)


if __name__ == "__main__":
    absltest.main()
