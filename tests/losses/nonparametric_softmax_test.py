"""The non-parametric softmax against the released code, with its memory, and its padding."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.nonparametric_softmax import nonparametric_softmax
from ssl_jax.objectives.parts import memory
from tests.losses.forms import value_and_grad

GOLDEN = Path(__file__).parents[1] / "golden"


class NonparametricSoftmaxTest(parameterized.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "instdisc_softmax.npz")
        bank = jnp.asarray(data["in_memory"])
        temperature, momentum = float(data["hp_T"]), float(data["hp_momentum"])
        run = jax.jit(jax.value_and_grad(nonparametric_softmax))
        for step, features in enumerate(data["in_x"]):
            index = data["in_y"][step]
            loss, grad = run(features, bank, index, temperature)
            bank = memory.average(bank, index, features, momentum)
            np.testing.assert_allclose(loss, data["out_loss"][step], rtol=1e-5)
            expected = data["grad_x"][step]
            np.testing.assert_allclose(grad, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
            np.testing.assert_allclose(bank, data["out_memory"][step], rtol=1e-5, atol=1e-6)

    def test_padding_has_no_part_in_it(self):
        draw = np.random.default_rng(0)
        bank = draw.normal(size=(12, 5)).astype(np.float32)
        features, index = draw.normal(size=(4, 5)).astype(np.float32), np.array([1, 5, 6, 11])
        plain = jax.value_and_grad(nonparametric_softmax)(features, bank, index, 0.3)
        padded = np.concatenate([bank, 9 * np.ones((3, 5), np.float32)])
        present = np.arange(15) < 12
        again = jax.value_and_grad(nonparametric_softmax)(features, padded, index, 0.3, present)
        for a, b in zip(again, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)

    @parameterized.parameters("tiled", "ring")
    def test_forms(self, similarity):
        draw = np.random.default_rng(0)
        bank = draw.normal(size=(16, 5)).astype(np.float32)
        features, index = draw.normal(size=(8, 5)).astype(np.float32), np.arange(8)
        args = (features, bank, index, 0.3, np.arange(16) < 13)
        actual, expected = (
            value_and_grad(nonparametric_softmax, *args, similarity=form)
            for form in (similarity, "dense")
        )
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_no_gradient_into_the_memory(self):
        bank = jnp.ones((6, 3))
        grad = jax.grad(nonparametric_softmax, argnums=1)(jnp.ones((2, 3)), bank, np.arange(2), 0.1)
        np.testing.assert_array_equal(grad, 0)


if __name__ == "__main__":
    absltest.main()
