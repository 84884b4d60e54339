"""Losses of pairs of pixels against the released code of PixPro and a third party's PixContrast."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.losses.pixel_pairs import pixel_consistency, pixel_contrast, pooled_pixel_contrast
from ssl_jax.nets.propagation import pixel_propagation
from ssl_jax.objectives.parts import pixel_grid
from tests.losses.forms import load


def placement(corners):
    """The placement of the released corners (B, 4): x, y of the first and of the last one."""
    x1, y1, x2, y2 = np.moveaxis(np.asarray(corners), -1, 0)
    zero = np.zeros_like(x1)
    return np.stack([y2 - y1, zero, y1, zero, x2 - x1, x1], -1).reshape(-1, 2, 3)


def pixels(maps):
    """(B, C, H, W) to (B, H W, C)."""
    return np.moveaxis(maps.reshape(*maps.shape[:2], -1), 1, 2)


class ReleasedTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_pixpro(self, wide):
        """`regression_loss` and `PixPro.featprop` of contrast/models/PixPro.py.

        Its mask is float32 even in float64, and so is the number of pairs plus 1e-6, which is off
        by up to 1.2e-7 of itself.
        """
        data = load("pixpro", wide)
        rtol = 3e-8 if wide else 1e-5
        with jax.enable_x64(wide):
            dim, rows, columns = data["in_x1"].shape[1:]
            nets = {
                name: pixel_propagation(dim, layers, sharpness=float(data["hp_p"]))
                for name, layers in (("identity", ()), ("conv", (dim,)))
            }
            linear = {"kernel": data["in_conv_w"][..., 0, 0].T, "bias": data["in_conv_b"]}
            weights = {"identity": {}, "conv": {"transform": {"linear1": linear}}}
            maps = {name: np.moveaxis(data[f"in_{name}"], 1, -1) for name in ("x1", "x2")}
            for name, net in nets.items():
                y = net.apply(weights[name], {}, jnp.asarray(maps["x1"]), train=True)[0]
                expected = np.moveaxis(data[f"out_prop_{name}"], 1, -1)
                np.testing.assert_allclose(y, expected, rtol=10 * rtol, atol=10 * rtol)

            places = (placement(data[f"in_coord{i}"]) for i in (1, 2))
            relative = pixel_grid.relative_distances(*map(jnp.asarray, places), (rows, columns))
            positives = relative < float(str(data["hp_pos_ratio"]))

            def directions(maps, weights):
                y1, y2 = (
                    nets["conv"]
                    .apply(weights, {}, maps[name], train=True)[0]
                    .reshape(len(positives), -1, dim)
                    for name in ("x1", "x2")
                )
                first = pixel_consistency(y1, pixels(data["in_k2"]), positives)
                second = pixel_consistency(y2, pixels(data["in_k1"]), jnp.swapaxes(positives, 1, 2))
                total = jnp.mean(first) + jnp.mean(second)
                return total, (jnp.mean(first), jnp.mean(second))

            run = jax.jit(jax.value_and_grad(directions, (0, 1), has_aux=True))
            arrays = jax.tree.map(jnp.asarray, (maps, weights["conv"]))
            (loss, (first, second)), (to_maps, to_weights) = run(*arrays)
            plain = pixel_consistency(pixels(data["in_x1"]), pixels(data["in_k2"]), positives)
            for value, name in (
                (loss, "loss"),
                (first, "loss12"),
                (second, "loss21"),
                (jnp.mean(plain), "loss12_no_ppm"),
            ):
                np.testing.assert_allclose(value, data[f"out_{name}"], rtol=10 * rtol, err_msg=name)
            tolerance = {"rtol": 100 * rtol, "atol": 10 * rtol}
            for name in ("x1", "x2"):
                gradient = np.moveaxis(np.asarray(to_maps[name]), -1, 1)
                np.testing.assert_allclose(gradient, data[f"grad_{name}"], **tolerance)
            to_linear = to_weights["transform"]["linear1"]
            np.testing.assert_allclose(
                to_linear["kernel"].T, data["grad_conv_w"][..., 0, 0], **tolerance
            )
            np.testing.assert_allclose(to_linear["bias"], data["grad_conv_b"], **tolerance)

    @parameterized.product(wide=(True, False), pooled=(True, False))
    def test_pixcontrast(self, wide, pooled):
        """The other branch of lucidrains' PixelCL.forward; `out_loss_per_pixel` is the fixture
        author's own transcription of the paper.
        """
        data = load("pixcontrast_lucidrains", wide)
        rtol = 1e-9 if wide else 1e-5
        temperature = float(data["hp_temperature"])  # rounded to float32 in these runs too
        x1, x2, k1, k2 = (np.swapaxes(data[f"in_{n}"], 1, 2) for n in ("x1", "x2", "k1", "k2"))
        mask = np.broadcast_to(data["in_mask12"], (len(x1), *data["in_mask12"].shape)).astype(bool)

        @jax.jit
        def directions(x1, x2):
            loss = pooled_pixel_contrast if pooled else pixel_contrast
            first = jnp.mean(loss(x1, k2, mask, temperature))
            second = jnp.mean(loss(x2, k1, mask.swapaxes(1, 2), temperature))
            return (first + second) / 2, first

        with jax.enable_x64(wide):
            arrays = jnp.asarray(x1), jnp.asarray(x2)
            run = jax.value_and_grad(directions, (0, 1), has_aux=True)
            (loss, first), gradients = run(*arrays)
            names = ("loss", "grad_x1", "grad_x2") if pooled else ("loss_per_pixel",)
            np.testing.assert_allclose(loss, data[f"out_{names[0]}"], rtol=rtol)
            if pooled:
                np.testing.assert_allclose(first, data["out_loss12"], rtol=rtol)
            expected = names[1:] if pooled else ("grad_per_pixel_x1",)
            for gradient, name in zip(gradients, expected, strict=False):
                np.testing.assert_allclose(
                    np.swapaxes(gradient, 1, 2), data[name], rtol=100 * rtol, atol=10 * rtol
                )


class PropertiesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        draw = np.random.default_rng(0)
        self.x, self.y = (jnp.asarray(draw.normal(size=(2, 9, 5)), jnp.float32) for _ in "xy")

    def test_equal_maps_on_the_diagonal_have_the_least_loss(self):
        loss = pixel_consistency(self.x, 3 * self.x, jnp.broadcast_to(jnp.eye(9), (2, 9, 9)))
        np.testing.assert_allclose(loss, -2, rtol=1e-5)

    def test_no_pair_no_loss_and_no_gradient(self):
        none = jnp.zeros((2, 9, 9), bool).at[1, 0, 0].set(True)  # the second image has one
        for loss in (
            lambda x: pixel_consistency(x, self.y, none),
            lambda x: pixel_contrast(x, self.y, none, 0.3),
            lambda x: pooled_pixel_contrast(x[:1], self.y[:1], none[:1], 0.3)[None],
        ):
            self.assertEqual(float(loss(self.x)[0]), 0)
            gradient = jax.grad(lambda x, loss=loss: jnp.sum(loss(x)))(self.x)
            self.assertTrue(bool(jnp.isfinite(gradient).all()))
            np.testing.assert_array_equal(gradient[0], 0)

    def test_mirroring_a_view_permutes_its_pairs(self):
        first = jnp.array([[[0.6, 0, 0.1], [0, 0.5, 0.2]]])
        second = jnp.array([[[0.5, 0, 0.2], [0, 0.7, 0.1]]])
        mirrored = jnp.array([[[0.5, 0, 0.2], [0, -0.7, 0.8]]])
        a, b = (pixel_grid.relative_distances(first, p, (3, 3)) < 0.7 for p in (second, mirrored))
        np.testing.assert_array_equal(a.reshape(1, 9, 3, 3)[..., ::-1], b.reshape(1, 9, 3, 3))
        self.assertGreater(int(a.sum()), 0)
        flipped = self.y[:1].reshape(1, 3, 3, 5)[:, :, ::-1].reshape(1, 9, 5)
        np.testing.assert_allclose(
            pixel_consistency(self.x[:1], self.y[:1], a),
            pixel_consistency(self.x[:1], flipped, b),
            rtol=1e-5,
        )

    def test_propagation_of_equal_pixels_changes_nothing_but_their_length(self):
        net = pixel_propagation(5, ())
        pixel = l2_normalize(self.x[:, :1])
        y = net.apply({}, {}, jnp.broadcast_to(pixel[:, None], (2, 3, 3, 5)), train=True)[0]
        np.testing.assert_allclose(y, 9 * jnp.broadcast_to(pixel[:, None], y.shape), rtol=1e-5)

    def test_shapes_are_checked(self):
        positives = jnp.ones((2, 9, 9), bool)
        for x, y, pairs in (
            (self.x[0], self.y, positives),
            (self.x, self.y[:, :4], positives),
            (self.x, self.y, positives[0]),
        ):
            with self.assertRaisesRegex(ValueError, "pixel_contrast: expected queries"):
                pixel_contrast(x, y, pairs, 0.3)


if __name__ == "__main__":
    absltest.main()
