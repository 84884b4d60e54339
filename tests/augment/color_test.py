"""Colours against published values."""

from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment import color, recipes
from ssl_jax.core.chain import Transform
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View

RGB = np.random.default_rng(0).random((3, 8, 9)).astype(np.float32)


class ColorTest(parameterized.TestCase):
    def test_lab_of_the_corners(self):
        published = {
            (0, 0, 0): (0, 0, 0),
            (1, 1, 1): (100, 0, 0),
            (1, 0, 0): (53.241, 80.092, 67.203),
            (0, 1, 0): (87.735, -86.183, 83.180),
            (0, 0, 1): (32.296, 79.186, -107.857),
            (1, 0, 1): (60.324, 98.233, -60.821),
            (1, 1, 0): (97.140, -21.555, 94.478),
            (0.5, 0.5, 0.5): (53.389, 0, 0),
        }
        pixels = np.array(list(published), np.float32).T[:, None]
        got = np.asarray(color.srgb_to_lab(jnp.asarray(pixels)))[:, 0].T
        np.testing.assert_allclose(got, list(published.values()), atol=0.01)

    def test_lab_is_cv2s(self):
        want = cv2.cvtColor(RGB.transpose(1, 2, 0), cv2.COLOR_RGB2Lab).transpose(2, 0, 1)
        got = color.srgb_to_lab(jnp.asarray(RGB))
        np.testing.assert_allclose(got, want, atol=0.2)  # cv2 reads a table

    @parameterized.parameters(("lab", "cmc", 2e-3), ("ycbcr", "cmc_ycbcr", 2e-3))
    def test_views_of_cmc(self, space, chain, tolerance):
        """The fixture has black, white, primaries, greys and colours near black."""
        data = np.load(Path(__file__).parents[1] / "golden/cmc_lab.npz")
        image = data["in_rgb"]
        got = color.from_rgb(space, jnp.asarray(image, jnp.float32) / 255)
        np.testing.assert_allclose(got, data[f"out_{space}"], atol=tolerance)
        view = View(image.shape[:2], recipe=chain)
        normalised = recipes.prepare(view, jnp.asarray(image))
        np.testing.assert_allclose(normalised, data[f"out_{space}_norm"], atol=1e-4)
        np.testing.assert_array_equal(recipes.pixels(view, np.asarray(normalised)), image)

    def test_hue_and_chroma_are_larssons(self):
        """The fixture has black, white, grey and six pure colours."""
        data = np.load(Path(__file__).parents[1] / "golden/larsson_autocolorize.npz")
        rgb = jnp.asarray(data["in_rgb"]).transpose(0, 2, 3, 1)
        got = color.from_rgb("hue_chroma", rgb)
        np.testing.assert_allclose(got[..., 0], rgb.mean(-1), atol=1e-6)
        np.testing.assert_allclose(got[..., 1], data["out_hue"], atol=2e-6)  # its fmod is float32
        np.testing.assert_allclose(got[..., 2], data["out_chroma"], atol=1e-6)
        for i, name in enumerate(("hue", "chroma"), 1):
            scaled, bins = 32 * got[..., i], data[f"out_{name}_bin"]
            gap = np.abs(scaled - np.round(scaled))
            rounded = (gap > 0) & (gap < 1e-4)  # to either side of an edge
            ours = np.minimum(np.floor(scaled), 31)
            np.testing.assert_array_equal(np.where(rounded, bins, ours), bins)
            self.assertLess(rounded.mean(), 0.01)
        np.testing.assert_allclose(color.to_rgb("hue_chroma", got), rgb, atol=1e-6)

    def test_a_colour_space_needs_colours(self):
        grey = jnp.zeros((2, 4, 4, 1), jnp.uint8)
        with self.assertRaisesRegex(UserError, "'lab' needs colour images, and these have 1 ch"):
            recipes.prepare(View(4, recipe="cmc"), grey)
        with self.assertRaisesRegex(UserError, "recipe.space: RandAugment .* 'lab'"):
            Transform(space="lab", rand_augment=9.0)

    def test_projection(self):
        b = np.array([[5 / 6, 1 / 3, -1 / 6], [1 / 3, 1 / 3, 1 / 3], [-1 / 6, 1 / 3, 5 / 6]])
        np.testing.assert_allclose(color.PROJECTION, b, atol=1e-12)
        got = color.project_colors(jnp.asarray(RGB))
        np.testing.assert_allclose(got, np.einsum("ij,jhw->ihw", b, RGB), atol=1e-6)
        grey = jnp.full((3, 2, 2), 0.3, jnp.float32)
        np.testing.assert_allclose(color.project_colors(grey), grey, atol=1e-7)

    def test_drop_channels(self):
        noise = np.random.default_rng(1).random(RGB.shape).astype(np.float32)
        got = color.drop_channels(jnp.asarray(RGB), jnp.int32(1), jnp.asarray(noise))
        np.testing.assert_array_equal(got, np.stack([noise[0], RGB[1], noise[2]]))


if __name__ == "__main__":
    absltest.main()
