"""Position tables against MAE's, MoCo v3's and DINO's, and closed forms."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.positions import bicubic, resize_grid, sincos
from tests.nets import weights as torch


class SinCosTest(parameterized.TestCase):
    def test_mae(self):
        _, data = torch.load("sincos_pos_embed")
        for dim in map(int, data["hp_embed_dim"]):
            for side in map(int, data["hp_grid"]):
                for cls, suffix in ((False, ""), (True, "_cls")):
                    table = sincos(dim, (side, side), cls_token=cls)
                    expected = data[f"out_{dim}_{side}{suffix}"]
                    np.testing.assert_allclose(table, expected, rtol=0, atol=1e-12)

    def test_mae_model(self):
        weights, _ = torch.load("model_mae")
        for key in ("pos_embed", "decoder_pos_embed"):
            table = weights[key][0]
            side = round((len(table) - 1) ** 0.5)
            ours = sincos(table.shape[1], (side, side), cls_token=True)
            np.testing.assert_allclose(ours, table, rtol=0, atol=1e-6)

    def test_moco_v3(self):
        _, data = torch.load("model_mocov3_vit")
        table = data["out_pos_embed"][0]
        side = round((len(table) - 1) ** 0.5)
        ours = sincos(table.shape[1], (side, side), "mocov3", cls_token=True)
        np.testing.assert_allclose(ours, table, rtol=0, atol=1e-6)

    @parameterized.parameters((768, 69594.4939), (512, 46340.3330), (1024, 92849.1979))
    def test_checksums(self, dim, total):
        table = sincos(dim, (14, 14))
        np.testing.assert_allclose(table.sum(), total, atol=1e-4)
        np.testing.assert_allclose(np.square(table).sum(), 196 * dim / 2)

    def test_row_major_tokens_column_first_channels(self):
        token = sincos(8, (3, 5))[1 * 5 + 2]  # row 1, column 2
        np.testing.assert_allclose(
            token[[0, 2, 4, 6]], np.array([np.sin(2), np.cos(2), np.sin(1), np.cos(1)])
        )

    def test_width(self):
        with self.assertRaisesRegex(UserError, "divisible by 4, got 10"):
            sincos(10, (2, 2))


class ResizeTest(parameterized.TestCase):
    def test_dino(self):
        weights, data = torch.load("model_dino_vit_head")
        table, expected = weights["backbone.pos_embed"], data["out_pos_embed_16"]
        old, new = (round((t.shape[1] - 1) ** 0.5) for t in (table, expected))
        ours = resize_grid(jnp.asarray(table[:, 1:]), (old, old), (new, new), 0.1)
        torch.assert_close(ours, expected[:, 1:], 1e-5)

    @parameterized.parameters((4, 9), (7, 3), (5, 5))
    def test_weights_sum_to_one_and_keep_ramps(self, n, m):
        weights = bicubic(n, m, m / n)
        np.testing.assert_allclose(weights.sum(1), 1)
        ramp = (np.arange(m) + 0.5) * n / m - 0.5
        inside = (ramp >= 1) & (ramp <= n - 2)  # further out the border is repeated
        self.assertTrue(inside.any())
        if n != m:  # a = -0.75 reproduces constants, and ramps up to this
            self.assertLess(np.abs(weights @ np.arange(n) - ramp)[inside].max(), 0.1)
        else:
            np.testing.assert_allclose(weights, np.eye(n), atol=1e-12)

    def test_rows_and_columns_are_not_mixed_up(self):
        rows = jnp.repeat(jnp.arange(6.0), 4).reshape(
            1, 24, 1
        )  # grid (6, 4), constant along columns
        out = resize_grid(rows, (6, 4), (3, 8)).reshape(3, 8)
        np.testing.assert_allclose(out, jnp.tile(out[:, :1], (1, 8)), atol=1e-5)
        self.assertTrue(bool(jnp.all(jnp.diff(out[:, 0]) > 1)))

    def test_same_grid_is_left_alone(self):
        table = jnp.ones((1, 6, 2))
        self.assertIs(resize_grid(table, (2, 3), (2, 3), 0.1), table)


if __name__ == "__main__":
    absltest.main()
