import cv2
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from absl.testing import absltest, parameterized

from ssl_jax.augment import geometric as g

IMAGE = np.random.default_rng(0).random((9, 12, 2)).astype(np.float32)


def matrix(angle=0.0, log_scale=(0.0, 0.0), shear=0.0, shift=(0.0, 0.0)):
    floats = (jnp.asarray(v, jnp.float32) for v in (angle, log_scale, shear, shift))
    return g.affine_matrix(*floats)


def blob(y, x, size=41):
    image = np.zeros((size, size, 1), np.float32)
    image[y, x] = 1.0
    return cv2.GaussianBlur(image, (0, 0), 1.5)[..., None]


def centre(image):
    image = np.asarray(image)[..., 0]
    return np.array(scipy.ndimage.center_of_mass(image)) - (len(image) - 1) / 2


class WarpTest(parameterized.TestCase):
    @parameterized.product(seed=[0, 1, 2, 3], padding=["zero", "edge"])
    def test_against_scipy(self, seed, padding):
        m = np.eye(2, 3) + np.random.default_rng(seed).normal(0, 0.4, (2, 3))
        m[:, 2] *= 6
        middle = (np.array(IMAGE.shape[:2]) - 1) / 2
        offset = middle + m[:, 2] - m[:, :2] @ middle
        mode = {"zero": "grid-constant", "edge": "nearest"}[padding]
        want = np.stack(
            [
                scipy.ndimage.affine_transform(
                    IMAGE[..., c].astype(float), m[:, :2], offset, order=1, mode=mode
                )
                for c in range(2)
            ],
            axis=-1,
        )
        got = g.warp(jnp.asarray(IMAGE), jnp.asarray(m, jnp.float32), padding)
        np.testing.assert_allclose(got, want, atol=1e-5)

    def test_identity_is_exact(self):
        np.testing.assert_array_equal(g.warp(jnp.asarray(IMAGE), matrix()), IMAGE)

    def test_far_outside(self):
        out = g.warp(jnp.asarray(IMAGE), matrix(shift=(1e6, -1e6)))
        np.testing.assert_array_equal(out, np.zeros_like(IMAGE))

    def test_a_quarter_turn_is_counter_clockwise(self):
        image = IMAGE[:, :9]
        got = g.warp(jnp.asarray(image), matrix(np.pi / 2))
        np.testing.assert_allclose(got, np.rot90(image), atol=1e-5)

    def test_what_each_parameter_does_to_the_picture(self):
        # A blob 8 above and 6 to the right of the centre, (y, x) = (-8, 6).
        image = jnp.asarray(blob(20 - 8, 20 + 6))
        for options, want in (
            ({"shift": (2.0, -3.0)}, (-6, 3)),
            ({"log_scale": (np.log(1.5), 0.0)}, (-12, 6)),
            ({"log_scale": (0.0, np.log(0.5))}, (-8, 3)),
            ({"shear": 0.5}, (-8, 10)),
            ({"angle": np.pi / 2}, (-6, -8)),
        ):
            np.testing.assert_allclose(centre(g.warp(image, matrix(**options))), want, atol=0.06)


class ExactTest(absltest.TestCase):
    def test_flip(self):
        np.testing.assert_array_equal(g.flip(IMAGE), np.fliplr(IMAGE))

    def test_rotations(self):
        image = jnp.asarray(IMAGE[:, :9])
        want = np.stack([np.rot90(image, k) for k in range(4)])
        np.testing.assert_array_equal(g.rotations(image), want)
        turned = jax.vmap(g.rotate90, (None, 0))(image, jnp.arange(4, dtype=jnp.int32))
        np.testing.assert_array_equal(turned, want)


if __name__ == "__main__":
    absltest.main()
