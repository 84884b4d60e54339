"""Places of feature-map pixels in the image."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.augment import geometric
from ssl_jax.data.assemble import placement_of
from ssl_jax.objectives.parts import pixel_grid
from tests.losses.forms import load

WHOLE = geometric.IDENTITY


class PixelGridTest(absltest.TestCase):
    def test_the_centres_of_the_whole_image(self):
        centres = pixel_grid.centres(jnp.asarray(WHOLE), (2, 4))
        self.assertEqual(centres.shape, (8, 2))
        np.testing.assert_allclose(centres[0], [0.25, 0.125])
        np.testing.assert_allclose(centres[1], [0.25, 0.375])  # columns first
        np.testing.assert_allclose(centres[-1], [0.75, 0.875])

    def test_a_mirrored_view_has_its_centres_in_the_reverse_order_of_columns(self):
        placement = jnp.array([[0.5, 0, 0.1], [0, 0.25, 0.6]])
        mirrored = geometric.compose(placement, jnp.asarray(geometric.MIRROR))
        there, back = (pixel_grid.centres(p, (3, 5)) for p in (placement, mirrored))
        np.testing.assert_allclose(
            there.reshape(3, 5, 2)[:, ::-1], back.reshape(3, 5, 2), atol=1e-6
        )
        np.testing.assert_allclose(
            pixel_grid.diagonal(placement, (3, 5)), pixel_grid.diagonal(mirrored, (3, 5))
        )

    def test_neighbours_on_square_pixels_are_more_than_seven_tenths_of_a_diagonal_apart(self):
        placements = jnp.asarray(np.stack([WHOLE, WHOLE]))
        distances = pixel_grid.relative_distances(placements, placements, (3, 3))
        self.assertEqual(distances.shape, (2, 9, 9))
        np.testing.assert_allclose(distances[0, 0, 1], 0.5**0.5, rtol=1e-6)
        np.testing.assert_array_equal(distances < 0.7, np.stack([np.eye(9, dtype=bool)] * 2))

    def test_the_larger_pixel_is_the_unit(self):
        small = jnp.array([[0.5, 0, 0], [0, 0.5, 0]])
        np.testing.assert_allclose(
            pixel_grid.relative_distances(jnp.asarray(WHOLE), small, (1, 1)), [[0.25]]
        )

    def test_the_released_coordinates_are_the_centres_of_the_outer_pixels(self):
        """`transform_coord.py` of zdaxie/PixPro counts in steps from pixel to pixel: its 0 and 1
        are the centres of the first and of the last pixel of the image, ours the outer edges.
        """
        data = load("pixpro_coord", False)
        for (top, left, h, w, height, width, flipped), expected in zip(
            data["in_box"], data["out_coord"], strict=True
        ):
            placement = placement_of((top, left, h, w), (height, width))
            if flipped:
                placement = geometric.compose(placement, jnp.asarray(geometric.MIRROR))
            pixels = pixel_grid.centres(jnp.asarray(placement), (int(h), int(w)))
            first, last = (pixels[i] * np.array([height, width]) - 0.5 for i in (0, -1))
            steps = np.array([height - 1, width - 1])
            y1, x1, y2, x2 = np.concatenate([first / steps, last / steps])
            np.testing.assert_allclose([x1, y1, x2, y2], expected, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    absltest.main()
