from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment import patches

GOLDEN = Path(__file__).parents[1] / "golden"
RNG = np.random.default_rng(0)
IMAGE = RNG.random((51, 51, 3)).astype(np.float32)
# Each pixel holds its position, each channel its number.
WHERE = np.stack([1000 * np.mgrid[:51, :51][0] + np.mgrid[:51, :51][1]] * 3, -1).astype(np.float32)
WHERE += np.array([0.0, 0.25, 0.5], np.float32)
KEYS = jax.random.split(jax.random.key(0), 600)


def corners(tiles):
    """(..., 2) from the upper left pixels of tiles of WHERE."""
    return np.stack(np.divmod(np.floor(np.asarray(tiles)[..., 0, 0, :]).astype(int), 1000), -1)


class PatchesTest(parameterized.TestCase):
    def test_patches_golden(self):
        data = np.load(GOLDEN / "mae_ops.npz")
        patch = int(data["hp_patch"])
        images = data["in_imgs"].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(patches.patchify(images, patch), data["out_patchify"])
        back = patches.unpatchify(data["in_pred"], patch).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(back, data["out_unpatchify_pred"])

    @parameterized.parameters(1, 3)
    def test_unpatchify_inverts_patchify_on_any_grid(self, channels):
        images = np.random.default_rng(0).normal(size=(2, 4, 6, channels)).astype(np.float32)
        rows = patches.patchify(images, 2)
        self.assertEqual(rows.shape, (2, 6, 4 * channels))
        np.testing.assert_array_equal(patches.unpatchify(rows, 2, (2, 3)), images)

    def test_tubelets_are_ordered_by_time_row_column(self):
        clip = np.arange(4 * 4 * 6, dtype=np.float32).reshape(1, 4, 4, 6, 1)
        cells = np.asarray(patches.tubelets(clip, 2, 2))
        self.assertEqual(cells.shape, (1, 2 * 2 * 3, 8))
        for i, (t, y, x) in enumerate(np.ndindex(2, 2, 3)):
            part = clip[0, 2 * t : 2 * t + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            np.testing.assert_array_equal(cells[0, i], part.ravel())
        frames = patches.tubelets(clip[:, :1], 1, 2)
        np.testing.assert_array_equal(frames, patches.patchify(clip[:, 0], 2))
        with self.assertRaisesRegex(ValueError, "tubelets of 3 x 2 x 2 do not tile clips of 4"):
            patches.tubelets(clip, 3, 2)

    def test_patches_that_do_not_tile(self):
        with self.assertRaisesRegex(ValueError, "do not tile an image of 6x8"):
            patches.patchify(jnp.zeros((1, 6, 8, 3)), 4)
        with self.assertRaisesRegex(ValueError, "is not a 2x2 grid"):
            patches.unpatchify(jnp.zeros((1, 6, 12)), 2)

    def test_tiles(self):
        image = jnp.arange(5 * 7 * 2).reshape(5, 7, 2)
        got = patches.tiles(image, 2, 3)
        self.assertEqual(got.shape, (6, 2, 2, 2))
        np.testing.assert_array_equal(got[4], image[2:4, 2:4])  # second row, second column

    def test_overlapping_patches_add_up_to_the_image(self):
        """Every pixel is in as many patches as the overlaps say."""
        image = IMAGE[:10, :8]
        made = np.asarray(patches.overlapping(image, 4, 2))
        self.assertEqual(made.shape, (4 * 3, 4, 4, 3))
        total, count = np.zeros_like(image), np.zeros_like(image)
        for i, patch in enumerate(made):
            y, x = 2 * (i // 3), 2 * (i % 3)
            total[y : y + 4, x : x + 4] += patch
            count[y : y + 4, x : x + 4] += 1
        np.testing.assert_allclose(total / count, image, rtol=1e-6)
        np.testing.assert_array_equal(count[0, :, 0], [1, 1, 2, 2, 2, 2, 1, 1])

    def test_cut(self):
        at = np.array([[0, 0], [3, 40], [30, 7], [48, 50], [-3, -1]], np.int32)
        got = patches.cut(jnp.asarray(IMAGE), jnp.asarray(at), 8)
        for tile, (y, x) in zip(got, at.clip(0, 43), strict=True):
            np.testing.assert_array_equal(tile, IMAGE[y : y + 8, x : x + 8])

    def test_cut_by_channel(self):
        at = RNG.integers(0, 43, (5, 3, 2)).astype(np.int32)
        got = patches.cut(jnp.asarray(IMAGE), jnp.asarray(at), 8)
        for n, c in np.ndindex(5, 3):
            y, x = at[n, c]
            np.testing.assert_array_equal(got[n, ..., c], IMAGE[y : y + 8, x : x + 8, c])

    @parameterized.parameters((3, 12), (3, 17), (2, 20))
    def test_jigsaw(self, rows, size):
        cut = jax.vmap(lambda k: patches.jigsaw_tiles(k, jnp.asarray(WHERE), rows, size))
        tiles = cut(KEYS)
        self.assertEqual(tiles.shape, (600, rows * rows, size, size, 3))
        cell = 51 // rows
        grid = np.stack(np.divmod(np.arange(rows * rows), rows), -1) * cell
        offsets = corners(tiles) - grid[:, None]
        self.assertEqual((offsets.min(), offsets.max()), (0, cell - size))
        counts = np.bincount(offsets[..., 0, :].ravel(), minlength=cell - size + 1)
        p = 1 / (cell - size + 1)
        spread = 5 * np.sqrt(p * (1 - p) / counts.sum())
        np.testing.assert_allclose(counts / counts.sum(), p, atol=spread + 1e-12)

    def test_jigsaw_channels_apart(self):
        cut_tiles = lambda k: patches.jigsaw_tiles(k, jnp.asarray(WHERE), 3, 12, channel_jitter=2)  # noqa: E731
        at = corners(jax.vmap(cut_tiles)(KEYS))
        apart = at - at.min(2, keepdims=True)
        self.assertEqual((apart.min(), apart.max()), (0, 2))
        self.assertLess(np.abs(np.corrcoef(at[:, 4, 0, 0], at[:, 4, 0, 1])[0, 1]), 0.2)

    def test_context_patches_have_gaps(self):
        cut_tiles = lambda k: patches.context_patches(k, jnp.asarray(WHERE), 3, 9, gap=6, jitter=2)  # noqa: E731
        at = corners(jax.vmap(cut_tiles)(KEYS))[..., 0, :].reshape(600, 3, 3, 2)
        down, across = np.diff(at[..., 0], axis=1), np.diff(at[..., 1], axis=2)
        for steps in (down, across):
            self.assertEqual((steps.min(), steps.max()), (9 + 6 - 4, 9 + 6 + 4))
        self.assertTrue((at >= 0).all() and (at <= 42).all())
        # 51 - 39 = 12 pixels of room; the middle patch is moved by up to 2 more.
        self.assertEqual((at[:, 1, 1].min(), at[:, 1, 1].max()), (15 - 2, 15 + 12 + 2))

    @parameterized.parameters(False, True)
    def test_standardize(self, per_channel):
        tiles = RNG.normal(3, 2, (4, 6, 7, 3)).astype(np.float32)
        axes = (1, 2) if per_channel else (1, 2, 3)
        want = (tiles - tiles.mean(axes, keepdims=True)) / tiles.std(axes, keepdims=True)
        got = patches.standardize(jnp.asarray(tiles), per_channel)
        np.testing.assert_allclose(got, want, atol=1e-5)
        flat = patches.standardize(jnp.full((2, 64, 64, 3), 0.3, jnp.float32), per_channel)
        np.testing.assert_array_equal(flat, np.zeros((2, 64, 64, 3)))

    def test_standardize_does_not_blow_up_what_is_nearly_flat(self):
        tile = np.full((8, 8, 1), 0.5, np.float32)
        tile[0, 0] += 0.01
        deviation = 0.01 * np.sqrt(63) / 64
        got = patches.standardize(jnp.asarray(tile))
        np.testing.assert_allclose(np.std(got), deviation * 8, rtol=1e-3)  # over 1 / sqrt(64)


if __name__ == "__main__":
    absltest.main()
