"""SimMIM's loss, with its pixel decoder, against the release; closed forms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.masked import masked_l1
from ssl_jax.nets.decoders import pixel_decoder, pixel_shuffle

GOLDEN = Path(__file__).parents[1] / "golden"
RNG = np.random.default_rng(0)


def nhwc(x):
    return np.moveaxis(x, 1, -1)


class SimMIMLossTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_golden(self, wide):
        data = np.load(GOLDEN / "simmim.npz")
        # The release counts masked pixels in float32, where its 1e-5 is lost: hence not 1e-9.
        prefix, rtol, dtype = ("f64_", 1e-7, np.float64) if wide else ("", 1e-5, np.float32)
        z, images = (nhwc(data[k]).astype(dtype) for k in ("in_z", "in_img"))
        mask = data["in_mask"]
        decoder = pixel_decoder(z.shape[-1], int(data["hp_stride"]), images.shape[-1])
        kernel = data["in_w"][:, :, 0, 0].T.astype(dtype)
        params = {"linear": {"kernel": kernel, "bias": data["in_b"].astype(dtype)}}

        def loss(z, params):
            prediction, _ = decoder.apply(params, {}, z, train=True)
            return masked_l1(prediction, images, mask), prediction

        with jax.enable_x64(wide):
            gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
            (value, prediction), (grad_z, grads) = gradient(z, params)
        np.testing.assert_allclose(value, data[prefix + "out_loss"], rtol=rtol)
        for key, actual in (
            ("out_rec", np.moveaxis(prediction, -1, 1)),
            ("grad_z", np.moveaxis(grad_z, -1, 1)),
            ("grad_w", grads["linear"]["kernel"].T[:, :, None, None]),
            ("grad_b", grads["linear"]["bias"]),
        ):
            expected = data[prefix + key]
            atol = 10 * rtol * np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, atol=atol, rtol=0, err_msg=key)

    def test_zeros_cost_the_mean_of_the_masked_pixels(self):
        images = RNG.normal(size=(3, 12, 12, 2)).astype(np.float32)
        mask = (RNG.random((3, 3, 3)) < 0.5).astype(np.float32)
        hidden = mask.repeat(4, 1).repeat(4, 2).astype(bool)
        value = masked_l1(jnp.zeros_like(images), images, mask)
        np.testing.assert_allclose(value, np.abs(images[hidden]).mean(), rtol=1e-5)
        self.assertEqual(masked_l1(images + 1, images, 0 * mask), 0)

    def test_pixel_shuffle_is_the_inverse_of_cutting(self):
        images = RNG.normal(size=(2, 6, 9, 3))
        cut = images.reshape(2, 2, 3, 3, 3, 3).transpose(0, 1, 3, 5, 2, 4).reshape(2, 2, 3, 27)
        np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(cut), 3), images.astype(np.float32))

    def test_half_precision_is_computed_in_float32(self):
        x = jnp.ones((1, 4, 4, 1), jnp.bfloat16)
        self.assertEqual(masked_l1(x, x, jnp.ones((1, 2, 2))).dtype, jnp.float32)

    def test_cells_that_do_not_tile(self):
        x = jnp.ones((1, 4, 4, 1))
        with self.assertRaisesRegex(ValueError, "3 x 3 cells"):
            masked_l1(x, x, jnp.ones((1, 3, 3)))


if __name__ == "__main__":
    absltest.main()
