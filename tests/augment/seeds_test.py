"""Patches by gradient energy, and their transformations, against definitions and S4L's code."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.augment import photometric, seeds
from tests.losses.forms import load


def planes(image):
    return jnp.moveaxis(jnp.asarray(image, jnp.float32), -1, 0)


class SeedsTest(absltest.TestCase):
    def test_positions(self):
        data = load("exemplar_patch_sampling", False)
        image, patch = jnp.asarray(data["in_image"]), int(data["hp_patch"])
        np.testing.assert_allclose(
            seeds.gradient_energy(image), data["out_grad_energy"], rtol=1e-5, atol=1e-6
        )
        probabilities = seeds.patch_probabilities(image, patch)
        np.testing.assert_allclose(probabilities, data["out_prob"], rtol=1e-5, atol=1e-7)
        corners = jax.vmap(lambda u: seeds.choose_patch(probabilities, u))(data["in_u"])
        np.testing.assert_array_equal(corners, data["out_top_left_rc"])

    def test_only_patches_with_an_edge_are_drawn(self):
        image = jnp.zeros((8, 12, 1)).at[:, 6:].set(1.0)
        probabilities = np.asarray(seeds.patch_probabilities(image, 4))
        columns = np.flatnonzero(probabilities.sum(0))
        np.testing.assert_array_equal(columns, range(2, 7))  # columns 5 and 6 have the gradient
        np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-6)

    def test_a_constant_image_is_uniform(self):
        probabilities = seeds.patch_probabilities(jnp.full((6, 6, 3), 0.3), 4)
        np.testing.assert_allclose(probabilities, 1 / 9, rtol=1e-6)
        np.testing.assert_array_equal(seeds.choose_patch(probabilities, 0.99), [2, 2])

    def test_extract(self):
        image = jnp.asarray(np.random.default_rng(0).random((9, 9, 2)), jnp.float32)
        centre, side = jnp.array([4.0, 5.0]), jnp.float32(4)
        cut = seeds.cut_patch(image, centre, side, jnp.float32(0), 4)
        np.testing.assert_allclose(cut, image[2:6, 3:7], atol=1e-6)
        turned = seeds.cut_patch(image, centre, side, jnp.float32(np.pi / 2), 4)
        np.testing.assert_allclose(turned, np.rot90(image[2:6, 3:7]), atol=1e-5)
        large = seeds.cut_patch(image, jnp.array([4.5, 4.5]), jnp.float32(18), jnp.float32(0), 6)
        np.testing.assert_allclose(large[0, 0], image[0, 0], atol=1e-6)


class ContrastTest(absltest.TestCase):
    def test_principal_contrast(self):
        data = load("exemplar_transforms_port", False)
        image = planes(data["in_image"]) / 255
        factors = jnp.asarray(data["in_pca_mult"])
        changed = photometric.principal_contrast(image, factors)
        np.testing.assert_allclose(changed, planes(data["f64_out_paper_pca"]), atol=1e-5)
        np.testing.assert_allclose(changed.mean((1, 2)), data["out_paper_pca_mean_rgb"], atol=1e-6)
        same = photometric.principal_contrast(image, jnp.ones(3))
        np.testing.assert_allclose(same, image, atol=1e-6)
        mean = image.mean((1, 2), keepdims=True)
        doubled = photometric.principal_contrast(image, jnp.full(3, 2.0))
        np.testing.assert_allclose(doubled, mean + 2 * (image - mean), atol=1e-5)

    def test_hsv_noise(self):
        data = load("exemplar_hsvnoise", False)
        image = planes(data["in_rgb255"]) / 255
        draws = [data[f"in_sv_{name}"] for name in ("pow_log2", "mul_log2", "add")]
        noisy = photometric.hsv_noise(
            image, data["in_hue_add"], 2 ** draws[0], 2 ** draws[1], draws[2]
        )
        np.testing.assert_allclose(255 * noisy, planes(data["out_rgb255"]), atol=1e-3)
        same = photometric.hsv_noise(image, 0.0, np.ones(2), np.ones(2), np.zeros(2))
        np.testing.assert_allclose(255 * same, planes(data["out_rgb255_identity"]), atol=1e-3)

    def test_hsv_noise_of_s4l(self):
        data = load("s4l_preprocess", False)
        draws = [data[f"in_sv_{name}"] for name in ("pow", "mul", "add")]
        noisy = photometric.hsv_noise(
            planes(data["in_img"]) / 255, data["in_h_add"], 2 ** draws[0], 2 ** draws[1], draws[2]
        )
        np.testing.assert_allclose(255 * noisy, planes(data["out_hsvnoise"]), atol=1e-3)
        grey = jnp.full((1, 2, 2), 0.25)
        noisy = photometric.hsv_noise(grey, 0.1, np.full(2, 0.5), np.ones(2), np.full(2, 0.1))
        np.testing.assert_allclose(noisy, 0.6, rtol=1e-6)


if __name__ == "__main__":
    absltest.main()
