"""CLIP's loss against open_clip's; closed forms and symmetries."""

from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.clip import clip_loss
from ssl_jax.losses.large_batch import tiles
from tests.losses.forms import FORMS, mesh_for

GOLDEN = Path(__file__).parents[1] / "golden"
VALUE = jax.jit(lambda *args: jnp.mean(clip_loss(*args)))


def draw(rows, dim, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, dim)), jnp.float32)


class ClipLossTest(parameterized.TestCase):
    @parameterized.product(wide=(False, True), similarity=FORMS)
    def test_golden(self, wide, similarity):
        data = np.load(GOLDEN / "clip.npz")
        prefix, rtol, dtype = ("f64_", 1e-9, np.float64) if wide else ("", 1e-5, np.float32)
        rows = len(data["in_image"])
        with jax.enable_x64(wide), mesh_for(rows), mock.patch.object(tiles, "TILE", 5):
            args = [jnp.asarray(data[f"in_{k}"], dtype) for k in ("image", "text", "logit_scale")]
            loss = lambda *args: jnp.mean(  # noqa: E731
                clip_loss(*args, normalize=False, similarity=similarity)
            )
            value, grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*args)
        np.testing.assert_allclose(value, data[prefix + "out_loss"], rtol=rtol)
        for key, actual in zip(("image", "text", "logit_scale"), grads, strict=True):
            expected = data[f"{prefix}grad_{key}"]
            atol = 10 * rtol * np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, atol=atol, rtol=0, err_msg=key)

    @parameterized.parameters(2, 9)
    def test_closed_forms(self, b):
        ones = jnp.ones((b, 5))
        np.testing.assert_allclose(VALUE(ones, ones, 7.0), np.log(b), rtol=1e-6)
        eye = jnp.eye(b)
        np.testing.assert_allclose(VALUE(eye, eye, 1.0), np.log(np.e + b - 1) - 1, rtol=1e-6)

    def test_symmetries(self):
        image, text = draw(8, 5, 0), draw(8, 5, 1)
        value = VALUE(image, text, 3.0)
        order = np.random.default_rng(2).permutation(8)
        for other in (
            VALUE(text, image, 3.0),
            VALUE(image[order], text[order], 3.0),
            VALUE(9 * image, 0.1 * text, 3.0),
        ):
            np.testing.assert_allclose(other, value, rtol=1e-5)
        self.assertGreater(abs(VALUE(image, text[order], 3.0) - value), 0.01)

    def test_no_gradient_to_the_scale_where_all_logits_are_equal(self):
        ones = jnp.ones((6, 4))
        np.testing.assert_allclose(jax.grad(VALUE, 2)(ones, ones, 5.0), 0, atol=1e-6)

    def test_half_precision_is_computed_in_float32(self):
        image, text = (draw(8, 5, i).astype(jnp.bfloat16) for i in (0, 1))
        self.assertEqual(VALUE(image, text, 3.0).dtype, jnp.float32)

    def test_bad_shape(self):
        with self.assertRaisesRegex(
            ValueError, r"clip_loss: expected image, text \(B, d\), got \(3, 4\)"
        ):
            clip_loss(jnp.ones((3, 4)), jnp.ones((4, 4)), 1.0)


if __name__ == "__main__":
    absltest.main()
