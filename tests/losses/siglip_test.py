"""SigLIP's loss against open_clip's; closed forms and symmetries."""

from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.large_batch import tiles
from ssl_jax.losses.siglip import siglip
from tests.losses.forms import FORMS, mesh_for

GOLDEN = Path(__file__).parents[1] / "golden"
VALUE = jax.jit(lambda *args: jnp.mean(siglip(*args)))


def draw(rows, dim, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, dim)), jnp.float32)


class SiglipTest(parameterized.TestCase):
    @parameterized.product(wide=(False, True), similarity=FORMS)
    def test_golden(self, wide, similarity):
        data = np.load(GOLDEN / "siglip.npz")
        prefix, rtol, dtype = ("f64_", 1e-9, np.float64) if wide else ("", 1e-5, np.float32)
        rows = len(data["in_image"])
        with jax.enable_x64(wide), mesh_for(rows), mock.patch.object(tiles, "TILE", 5):
            loss = lambda *args: jnp.mean(  # noqa: E731
                siglip(*args, normalize=False, similarity=similarity)
            )
            loss = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))
            towers = [jnp.asarray(data[f"in_{name}"], dtype) for name in ("image", "text")]
            for i, (scale, bias) in enumerate(zip(data["hp_scale"], data["hp_bias"], strict=True)):
                value, grads = loss(*towers, dtype(scale), dtype(bias))
                np.testing.assert_allclose(value, data[prefix + "out_loss"][i], rtol=rtol)
                for name, grad in zip(("image", "text", "scale", "bias"), grads, strict=True):
                    stored = f"{prefix}grad_{name}"
                    # Of the scalars only the float32 gradients are stored.
                    expected = data[stored if stored in data else f"grad_{name}"][i]
                    tolerance = 10 * rtol if stored in data else 1e-4
                    atol = tolerance * np.abs(expected).max()
                    np.testing.assert_allclose(grad, expected, rtol=0, atol=atol, err_msg=name)

    @parameterized.parameters(1, 2, 9)
    def test_closed_forms(self, b):
        ones = jnp.ones((b, 5))
        np.testing.assert_allclose(VALUE(ones, ones, 10.0, -10.0), b * np.log(2), rtol=1e-5)
        expected = np.log(2) + (b - 1) * np.log1p(np.exp(-10))
        np.testing.assert_allclose(VALUE(jnp.eye(b), jnp.eye(b), 10.0, -10.0), expected, rtol=1e-5)

    def test_one_value_an_image(self):
        image, text = draw(6, 4, 0), draw(6, 4, 1)
        unit = [np.asarray(x / jnp.linalg.norm(x, axis=1, keepdims=True)) for x in (image, text)]
        logits = 3 * unit[0] @ unit[1].T - 1
        signs = 2 * np.eye(6) - 1
        expected = np.log1p(np.exp(-signs * logits)).sum(1)
        np.testing.assert_allclose(siglip(image, text, 3.0, -1.0), expected, rtol=1e-5)

    def test_symmetries(self):
        image, text = draw(8, 5, 0), draw(8, 5, 1)
        value = VALUE(image, text, 3.0, -1.0)
        order = np.random.default_rng(2).permutation(8)
        for other in (
            VALUE(text, image, 3.0, -1.0),
            VALUE(image[order], text[order], 3.0, -1.0),
            VALUE(9 * image, 0.1 * text, 3.0, -1.0),
        ):
            np.testing.assert_allclose(other, value, rtol=1e-5)
        self.assertGreater(abs(VALUE(image, text[order], 3.0, -1.0) - value), 0.01)

    def test_half_precision_is_computed_in_float32(self):
        image, text = (draw(8, 5, i).astype(jnp.bfloat16) for i in (0, 1))
        self.assertEqual(VALUE(image, text, 3.0, -1.0).dtype, jnp.float32)

    def test_bad_shape(self):
        with self.assertRaisesRegex(
            ValueError, r"siglip: expected image, text \(B, d\), got \(3, 4\)"
        ):
            siglip(jnp.ones((3, 4)), jnp.ones((4, 4)), 1.0, 0.0)


if __name__ == "__main__":
    absltest.main()
