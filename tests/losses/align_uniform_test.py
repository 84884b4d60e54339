"""Alignment and uniformity against the released code, and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.align_uniform import alignment, uniformity
from tests.losses.forms import FORMS, check_golden, load


def units(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


class AlignUniformTest(parameterized.TestCase):
    @parameterized.parameters(*((form, True) for form in FORMS), ("dense", False))
    def test_golden_uniformity(self, form, wide):
        data = load("align_uniform", wide)
        loss = lambda x, t, **form: uniformity(x, t, normalize=False, **form)  # noqa: E731
        for i, t in enumerate(data["hp_t"]):
            value, gradient = data["out_uniform"][i], data["grad_uniform_x"][i]
            check_golden(loss, (data["in_x"], t), form, wide, value, gradient)

    @parameterized.parameters(True, False)
    def test_golden_alignment(self, wide):
        data = load("align_uniform", wide)
        for i, alpha in enumerate(data["hp_alpha"]):
            loss = lambda x, y, alpha=alpha, similarity="dense": alignment(  # noqa: E731
                x, y, float(alpha), normalize=False
            )
            value, gradient = data["out_align"][i], data["grad_align_x"][i]
            check_golden(loss, (data["in_x"], data["in_y"]), "dense", wide, value, gradient)

    def test_closed_forms(self):
        pole = jnp.ones((6, 4)) / 2
        self.assertAlmostEqual(float(alignment(pole, pole)), 0, places=6)
        np.testing.assert_allclose(uniformity(pole), 0, atol=1e-5)
        np.testing.assert_allclose(uniformity(jnp.stack([pole[0], -pole[0]])), -8, rtol=1e-5)
        np.testing.assert_allclose(uniformity(jnp.eye(5)), -4, rtol=1e-5)
        rotation = jnp.asarray(np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0])
        x = units(7, 4)
        np.testing.assert_allclose(uniformity(x @ rotation), uniformity(x), rtol=1e-5)

    @parameterized.parameters(1.0, 2.0, 3.0)
    def test_equal_positives_have_a_finite_gradient(self, alpha):
        x = units(4, 3)
        slope = jax.grad(alignment)(x, x, alpha)
        np.testing.assert_allclose(slope, 0, atol=1e-6)

    @parameterized.parameters(*FORMS)
    def test_with_a_queue_one_mean_over_all_pairs(self, form):
        x, queue = units(6, 4), units(10, 4, seed=1)
        between = np.square(x[:, None] - queue[None]).sum(-1).ravel()
        within = np.square(x[:, None] - x[None]).sum(-1)[np.triu_indices(6, 1)]
        expected = np.log(np.exp(-3 * np.concatenate([between, within])).mean())
        np.testing.assert_allclose(uniformity(x, 3.0, queue, similarity=form), expected, rtol=1e-5)


if __name__ == "__main__":
    absltest.main()
