"""NCE against the released code, with its memory, and in closed form."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.nce import estimate_partition, nce
from ssl_jax.losses.nonparametric_softmax import nonparametric_softmax
from ssl_jax.objectives.parts import memory

GOLDEN = Path(__file__).parents[1] / "golden"


def released_step(features, bank, candidates, partition, temperature, count):
    """(loss, (partition, probabilities)) of a step, as `objectives.instdisc` makes it."""
    scores = jnp.einsum("bd,bmd->bm", features, bank[candidates], precision="highest")
    scores = scores / temperature
    partition = estimate_partition(scores, count) if partition is None else partition
    log_probs = scores - jnp.log(partition)
    return nce(log_probs, 1 / count), (partition, jnp.exp(log_probs))


class NceTest(parameterized.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "instdisc_nce.npz")
        bank, partition = jnp.asarray(data["in_memory"]), None
        temperature, momentum = float(data["hp_T"]), float(data["hp_momentum"])
        count, negatives = int(data["hp_N_data"]), int(data["hp_K"])
        self.assertEqual(data["in_idx"].shape[-1], 1 + negatives)
        run = jax.jit(jax.value_and_grad(released_step, has_aux=True), static_argnames=("count",))
        for step, features in enumerate(data["in_x"]):
            index = data["in_y"][step]
            candidates = data["in_idx"][step].copy()
            candidates[:, 0] = index
            (loss, (partition, probs)), grad = run(
                features, bank, candidates, partition, temperature, count=count
            )
            bank = memory.average(bank, index, features, momentum)
            np.testing.assert_allclose(partition, data["out_Z"][step], rtol=1e-5)
            np.testing.assert_allclose(probs, data["out_probs"][step], rtol=1e-5, atol=1e-9)
            np.testing.assert_allclose(loss, data["out_loss"][step], rtol=1e-5)
            expected = data["grad_x"][step]
            np.testing.assert_allclose(grad, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
            np.testing.assert_allclose(bank, data["out_memory"][step], rtol=1e-5, atol=1e-6)

    @parameterized.parameters(1, 7, 500)
    def test_a_model_that_is_the_noise(self, negatives):
        """P = Pn everywhere: ln(m + 1) + m ln(1 + 1 / m)."""
        log_probs = jnp.full((3, 1 + negatives), np.log(1 / 40), jnp.float32)
        expected = np.log(negatives + 1) + negatives * np.log1p(1 / negatives)
        np.testing.assert_allclose(nce(log_probs, 1 / 40, eps=0.0), expected, rtol=1e-5)

    def test_many_negatives_give_the_softmax_gradient(self):
        """In the limit of m, with the right Z (Gutmann and Hyvarinen 2010)."""
        draw = np.random.default_rng(0)
        bank = draw.normal(size=(20, 6)).astype(np.float32)
        features = draw.normal(size=(4, 6)).astype(np.float32)
        index = np.array([3, 0, 7, 19])
        softmax = jax.grad(lambda f: nonparametric_softmax(f, bank, index, 0.7))(features)
        errors = []
        for repeats in (10, 2000):  # every row as often as uniform draws have it in the mean
            candidates = np.concatenate([index[:, None], np.tile(np.arange(20), (4, repeats))], 1)

            def loss(f, candidates=candidates):
                scores = jnp.einsum("bd,bmd->bm", f, bank[candidates]) / 0.7
                full = jax.nn.logsumexp(f @ bank.T / 0.7, axis=1, keepdims=True)
                return nce(scores - jax.lax.stop_gradient(full), 1 / 20, eps=0.0)

            errors.append(np.abs(jax.jit(jax.grad(loss))(features) - softmax).max())
        self.assertLess(errors[1], 1e-3 * np.abs(softmax).max())
        self.assertLess(errors[1], errors[0] / 50)

    def test_a_trained_normaliser_becomes_the_right_one(self):
        """An unnormalised Gaussian of standard deviation s against wider noise: c = -ln Z."""
        s, noise, draw = 0.7, 1.5, np.random.default_rng(0)
        # Each datum meets one noise sample; both at the quantiles of their densities.
        grid = (np.arange(2000) + 0.5) / 2000
        normal = np.sqrt(2) * jax.scipy.special.erfinv(2 * grid - 1)
        x = np.stack([s * normal, noise * draw.permutation(normal)], axis=1)
        density = np.exp(-(x**2) / (2 * noise**2)) / (noise * np.sqrt(2 * np.pi))

        @jax.jit
        def fit(c):
            loss = lambda c: nce(-(x**2) / (2 * s**2) + c, density, eps=0.0)  # noqa: E731
            step = lambda c, _: (c - 4 * jax.grad(loss)(c), None)  # noqa: E731
            return jax.lax.scan(step, c, length=200)[0]

        expected = -0.5 * np.log(2 * np.pi * s**2)
        np.testing.assert_allclose(fit(jnp.float32(0)), expected, atol=5e-3)

    def test_only_score_plus_normaliser_counts(self):
        scores = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
        noise = np.random.default_rng(1).uniform(0.1, 1, (4, 6)).astype(np.float32)
        np.testing.assert_allclose(nce(scores + 3 - 3, noise), nce(scores, noise), rtol=1e-5)
        self.assertGreater(abs(float(nce(scores + 3, noise) - nce(scores, noise))), 0.1)
        spread = np.full((4, 6), 0.2, np.float32)  # equal densities are one number
        np.testing.assert_allclose(nce(scores, spread), nce(scores, 0.2), rtol=1e-6)

    def test_half_precision_and_float64(self):
        log_probs = jnp.asarray(-np.random.default_rng(0).uniform(1, 9, (4, 9)), jnp.bfloat16)
        value = nce(log_probs, 1 / 40)
        self.assertEqual(value.dtype, jnp.float32)
        np.testing.assert_allclose(value, nce(log_probs.astype(jnp.float32), 1 / 40), rtol=1e-6)
        with jax.enable_x64(True):
            wide = jnp.asarray(log_probs, jnp.float64)
            self.assertEqual(nce(wide, 1 / 40).dtype, jnp.float64)

    @parameterized.parameters(((3,),), ((3, 1),))
    def test_bad_shape(self, shape):
        with self.assertRaisesRegex(ValueError, "nce: expected .* got"):
            nce(jnp.zeros(shape), 0.1)


if __name__ == "__main__":
    absltest.main()
