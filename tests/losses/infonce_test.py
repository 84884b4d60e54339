"""InfoNCE against MoCo's and MoCo v3's code, closed forms, invariances."""

from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.infonce import infonce
from ssl_jax.losses.large_batch import tiles
from tests.losses.forms import FORMS, mesh_for

GOLDEN = Path(__file__).parents[1] / "golden"
IN_BATCH = jax.jit(infonce)
QUEUED = jax.jit(lambda q, k, t, n: infonce(q, k, t, n))


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


class InfonceTest(parameterized.TestCase):
    @parameterized.product(wide=(False, True), similarity=FORMS)
    def test_golden_moco(self, wide, similarity):
        data = np.load(GOLDEN / "moco_infonce_queue.npz")
        prefix, dtype, rtol = ("f64_", np.float64, 1e-7) if wide else ("", np.float32, 1e-5)
        queues = [data["in_queue"], *data[f"{prefix}out_queue"][:-1]]
        sizes = data["in_q"].shape[1], queues[0].shape[1]
        with jax.enable_x64(wide), mesh_for(*sizes), mock.patch.object(tiles, "TILE", 5):
            temperature = dtype(data["hp_T"])
            mean = lambda q, k, n: jnp.mean(  # noqa: E731
                infonce(q, k, temperature, n, similarity=similarity)
            )
            loss = jax.jit(jax.value_and_grad(mean))
            for s, queue in enumerate(queues):
                q, k = (data[f"in_{name}"][s].astype(dtype) for name in ("q", "k"))
                value, grad = loss(q, k, queue.T.astype(dtype))
                np.testing.assert_allclose(value, data[f"{prefix}out_loss"][s], rtol=rtol)
                expected = data[f"{prefix}grad_q"][s]
                atol = 10 * rtol * np.abs(expected).max()
                np.testing.assert_allclose(grad, expected, rtol=0, atol=atol)

    @parameterized.product(queued=(False, True), similarity=FORMS)
    def test_a_candidate_of_its_own_is_one_more_logit(self, queued, similarity):
        q, k, own = (draw(6, 5, seed=i) for i in range(3))
        negatives = unit(draw(10, 5, seed=3)) if queued else None
        with mesh_for(6, 10), mock.patch.object(tiles, "TILE", 5):
            rows = infonce(q, k, 0.2, negatives, own=own, similarity=similarity)
        q, k, own = map(unit, (q, k, own))
        others = (
            jnp.concatenate([jnp.sum(q * k, 1)[:, None], q @ negatives.T], 1) if queued else q @ k.T
        )
        logits = jnp.concatenate([others, jnp.sum(q * own, 1)[:, None]], 1) / 0.2
        want = jax.nn.logsumexp(logits, 1) - jnp.sum(q * k, 1) / 0.2
        np.testing.assert_allclose(rows, want, rtol=1e-5)

    def test_a_candidate_of_another_shape(self):
        q = draw(4, 3)
        with self.assertRaisesRegex(ValueError, "own"):
            infonce(q, q, 0.1, own=draw(4, 2))

    @parameterized.parameters(*FORMS)
    def test_golden_moco_v3(self, similarity):
        data = np.load(GOLDEN / "moco_v3.npz")
        q1, q2, k1, k2 = (data[f"in_{name}"] for name in ("q1", "q2", "k1", "k2"))

        def both(q1, q2, t):
            loss = lambda q, k: jnp.mean(infonce(q, k, t, similarity=similarity))  # noqa: E731
            terms = [2 * t * loss(q, k) for q, k in ((q1, k2), (q2, k1))]
            return sum(terms), terms

        both = jax.jit(jax.value_and_grad(both, (0, 1), has_aux=True))
        for i, t in enumerate(data["hp_T"]):
            with mesh_for(len(q1)), mock.patch.object(tiles, "TILE", 5):
                (value, terms), grads = both(q1, q2, t)
            for got, name in zip((value, *terms), ("loss", "loss12", "loss21"), strict=True):
                np.testing.assert_allclose(got, data[f"out_{name}"][i], rtol=1e-5)
            for name, grad in zip(("q1", "q2"), grads, strict=True):
                expected = data[f"grad_{name}"][i]
                atol = 1e-4 * np.abs(expected).max()
                np.testing.assert_allclose(grad, expected, rtol=0, atol=atol)

    @parameterized.parameters((4, 12), (6, 64))
    def test_constant_embeddings(self, b, k):
        ones, negatives = jnp.ones((b, 5)), unit(jnp.ones((k, 5)))
        np.testing.assert_allclose(QUEUED(ones, ones, 0.07, negatives), np.log(k + 1), rtol=1e-5)
        np.testing.assert_allclose(IN_BATCH(ones, ones, 0.2), np.log(b), rtol=1e-5)

    def test_orthonormal_pairs(self):
        b, t = 8, 0.5
        value = 4 * t * IN_BATCH(jnp.eye(b), jnp.eye(b), t)  # as MoCo v3 scales both directions
        np.testing.assert_allclose(value, 4 * t * np.log1p((b - 1) * np.exp(-1 / t)), rtol=1e-5)

    def test_the_batch_as_negatives_is_the_batch_form(self):
        """Query 0's candidates are its key and the others', whichever way they are given."""
        q, k = draw(6, 5), draw(6, 5, seed=1)
        np.testing.assert_allclose(
            QUEUED(q[:1], k[:1], 0.2, unit(k)[1:])[0], IN_BATCH(q, k, 0.2)[0], rtol=1e-5
        )

    def test_invariances(self):
        q, k = draw(8, 6), draw(8, 6, seed=1)
        rows = IN_BATCH(q, k, 0.2)
        self.assertEqual(rows.shape, (8,))
        rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 6)))[0].astype(np.float32)
        scale = jnp.linspace(0.1, 9.0, 8)[:, None]
        np.testing.assert_allclose(IN_BATCH(q @ rotation, k @ rotation, 0.2), rows, rtol=1e-4)
        np.testing.assert_allclose(IN_BATCH(q * scale, k / scale, 0.2), rows, rtol=1e-4)
        order = np.random.default_rng(3).permutation(8)
        np.testing.assert_allclose(IN_BATCH(q[order], k[order], 0.2), rows[order], rtol=1e-4)

    def test_gradient_is_orthogonal_to_the_query(self):
        q, k, n = draw(8, 6), draw(8, 6, seed=1), unit(draw(16, 6, seed=2))
        for args in ((q, k, 0.1), (q, k, 0.1, n)):
            grad = jax.jit(jax.grad(lambda q, *rest: jnp.sum(infonce(q, *rest))))(*args)
            np.testing.assert_allclose(
                jnp.sum(grad * q, 1), 0, atol=1e-5 * float(jnp.abs(grad).max())
            )
            self.assertGreater(float(jnp.abs(grad).max()), 1e-3)

    def test_types(self):
        q, k, n = draw(8, 6), draw(8, 6, seed=1), unit(draw(16, 6, seed=2))
        half = QUEUED(*(x.astype(jnp.bfloat16) for x in (q, k)), 0.1, n.astype(jnp.bfloat16))
        self.assertEqual(half.dtype, jnp.float32)
        self.assertLess(float(jnp.abs(half - QUEUED(q, k, 0.1, n)).max()), 0.2)
        # A query far from its key keeps a finite loss and gradient.
        far = jax.value_and_grad(lambda q: QUEUED(q, -q, 1e-3, unit(q))[0])(q)
        self.assertTrue(all(bool(jnp.all(jnp.isfinite(x))) for x in far))

    def test_without_normalisation(self):
        q, k = draw(8, 6), draw(8, 6, seed=1)
        plain = jax.jit(lambda q, k: infonce(q, k, 0.2, normalize=False))
        np.testing.assert_allclose(plain(unit(q), unit(k)), IN_BATCH(q, k, 0.2), rtol=1e-5)
        self.assertGreater(float(jnp.abs(plain(q, k) - IN_BATCH(q, k, 0.2)).max()), 0.1)

    def test_bad_shape(self):
        with self.assertRaisesRegex(ValueError, r"infonce: expected queries, keys, own \(B, d\)"):
            infonce(jnp.ones((3, 4)), jnp.ones((2, 4)), 0.1)


if __name__ == "__main__":
    absltest.main()
