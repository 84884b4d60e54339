"""HOG against LocalMIM's and SlowFast's layers; what it does to simple images."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.hog import hog, sobel
from tests.nets.weights import GOLDEN, assert_close, nhwc, random_images


def channel_first(histograms, channels=3):
    """Turn (B, h, w, C bins) into (B, C, bins, h, w), as the releases return them."""
    *lead, _ = histograms.shape
    return np.moveaxis(np.reshape(histograms, (*lead, channels, -1)), (3, 4), (1, 2))


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(4, 8, 16)
    def test_localmim(self, cell):
        data = np.load(GOLDEN / "localmim_hog_layer.npz")
        ours = channel_first(hog(nhwc(data["in_x"]), cell, int(data["hp_nbins"])))
        assert_close(ours, data[f"out_hog_pool{cell}_sep"], 1e-5)

    def test_sobel(self):
        data = np.load(GOLDEN / "localmim_hog_layer.npz")
        ours = np.stack([np.moveaxis(g, -1, 1) for g in sobel(nhwc(data["in_x"]))], axis=2)
        assert_close(ours, data["out_gxy"], 1e-5)

    @parameterized.parameters((8, 9, "out_hog_pool8"), (4, 18, "out_hog_pool4_18bins"))
    def test_maskfeat(self, cell, bins, name):
        data = np.load(GOLDEN / "maskfeat_hog.npz")
        ours = channel_first(hog(nhwc(data["in_x"]), cell, bins))
        assert_close(ours, data[f"{name}_sep"], 1e-5)
        inner = np.s_[..., 1:-1, 1:-1]  # away from the border, where the release rounds
        assert_close(ours[inner], data[name][inner], 1e-5)


class PropertiesTest(parameterized.TestCase):
    def test_flat_image(self):
        np.testing.assert_array_equal(hog(jnp.full((1, 8, 8, 3), 0.3), 4), 0.0)

    @parameterized.parameters((0, 18, 0), (1, 18, 9), (1, 9, 4))
    def test_an_edge_has_one_orientation(self, axis, bins, expected):
        """Brightness that rises downwards is in bin 0; across, in the middle one."""
        image = np.moveaxis(np.broadcast_to(np.arange(8.0), (1, 3, 8, 8)), 1, -1)
        image = image if axis else image.swapaxes(1, 2)
        histograms = np.reshape(hog(image, 4, bins), (-1, bins))
        np.testing.assert_allclose(histograms, np.broadcast_to(np.eye(bins)[expected], (12, bins)))

    def test_a_quarter_turn_moves_half_the_bins(self):
        x = random_images(1, 16, 16, 1)
        turned = np.rot90(x, axes=(1, 2))
        straight, other = (hog(image, 4, 18)[:, 1:-1, 1:-1] for image in (x, turned))
        assert_close(other, np.roll(np.rot90(straight, axes=(1, 2)), 9, axis=-1), 1e-5)

    def test_contrast_and_brightness_have_no_effect(self):
        x = random_images(2, 8, 8, 3)
        for other in (2 * x + 3, -x):
            assert_close(hog(other, 4), hog(x, 4), 1e-4)

    def test_every_cell_has_length_one(self):
        each = np.reshape(hog(random_images(2, 8, 8, 3), 2, 9), (-1, 9))
        np.testing.assert_allclose(np.linalg.norm(each, axis=-1), 1, rtol=1e-5)

    def test_cells_must_tile(self):
        with self.assertRaisesRegex(ValueError, "hog: cells of 3 px do not tile an image of 8 x 8"):
            hog(jnp.ones((1, 8, 8, 3)), 3)


if __name__ == "__main__":
    absltest.main()
