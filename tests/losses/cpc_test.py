"""InfoNCE over a grid against lightning-bolts' CPC task, and its bounds."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.cpc import cpc
from tests.losses.forms import FORMS, load, value_and_grad


def grids():
    draw = np.random.default_rng(0)
    return [jnp.asarray(draw.normal(size=(2, 4, 3, 5)), jnp.float32) for _ in range(2)]


class CpcTest(parameterized.TestCase):
    def test_golden(self):
        data = load("cpc_bolts_train3", wide=False)

        def convolve(name, x):  # 1 x 1, on (B, d, g, g)
            kernel, bias = (data[f"in_sd.task.{name}.{part}"] for part in ("weight", "bias"))
            return np.einsum("bdhw,ed->bhwe", x, kernel[:, :, 0, 0]) + bias

        target = convolve("target_cnn", data["out_z"][0])
        prediction = convolve("pred_cnn", data["out_context_step0"]) * data["hp_embed_scale"]
        for i, expected in enumerate(data["out_loss_per_i_step0"]):
            value = jnp.mean(cpc(prediction, target, i + 2))  # i = 1 predicts two rows below
            np.testing.assert_allclose(value, expected, rtol=1e-5)

    @parameterized.parameters(*FORMS)
    def test_definition(self, similarity):
        def definition(prediction, target):
            logits = jnp.einsum("bhwd,czvd->bhwczv", prediction[:, :3], target)
            flat = jax.nn.log_softmax(logits.reshape(2, 3, 3, -1)).reshape(logits.shape)
            return -jnp.mean(
                jnp.stack(
                    [
                        flat[b, i, j, b, i + 1, j]
                        for b in range(2)
                        for i in range(3)
                        for j in range(3)
                    ]
                )
            )

        loss = lambda *args, **form: jnp.mean(cpc(*args, 1, **form))  # noqa: E731
        value, slope = value_and_grad(loss, *grids(), similarity=similarity)
        expected, gradient = jax.value_and_grad(definition)(*grids())
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(slope, gradient, atol=1e-6, rtol=1e-4)

    def test_equal_patches_are_chance(self):
        x = jnp.ones((2, 4, 3, 5))
        np.testing.assert_allclose(cpc(x, x, 2), np.log(24), rtol=1e-5)

    def test_the_bound_is_the_number_of_patches(self):
        """The estimate of the information, log N - loss, is never more than log N."""
        x, y = grids()
        for scale in (1.0, 100.0):
            self.assertGreaterEqual(jnp.min(cpc(x, scale * y, 1)), 0)
        # Targets that only their own predictions match reach it.
        own = 30 * jnp.eye(24).reshape(2, 4, 3, 24)
        prediction = jnp.concatenate([own[:, 1:], own[:, :1]], axis=1)
        np.testing.assert_allclose(cpc(prediction, own, 1), 0, atol=1e-6)

    def test_the_order_of_the_negatives_does_not_matter(self):
        x, y = grids()
        turned = cpc(x[:, :, ::-1], y[:, :, ::-1], 1)
        np.testing.assert_allclose(turned[:, :, ::-1], cpc(x, y, 1), rtol=1e-5)
        np.testing.assert_allclose(cpc(x[::-1], y[::-1], 1), cpc(x, y, 1)[::-1], rtol=1e-5)

    def test_no_matrix_of_65536_images(self):
        """Traced for CPC v2's grid: no array is larger than the embeddings."""
        grid = jax.ShapeDtypeStruct((65536, 6, 6, 64), jnp.float32)
        loss = lambda x, y: jnp.mean(cpc(x, y, 3))  # noqa: E731
        text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(grid, grid))
        shapes = re.findall(r"\bf32\[([\d,]+)\]", text)
        sizes = [math.prod(map(int, shape.split(","))) for shape in shapes]
        self.assertEqual(max(sizes), math.prod(grid.shape))

    @parameterized.parameters(0, 4)
    def test_bad_offset(self, offset):
        with self.assertRaisesRegex(ValueError, f"offset in 1 .. 3, got {offset}"):
            cpc(*grids(), offset)


if __name__ == "__main__":
    absltest.main()
