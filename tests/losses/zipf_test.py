"""Zipf's law as a fitness: golden values, the numbers of the closed form, degenerate clusters."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.losses.zipf import posteriors, zipf_divergence, zipf_prior
from tests.losses.forms import load


class ZipfTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_golden(self, wide):
        data, rtol = load("evolving_losses", wide), 1e-5
        s, points, centroids = (data[k] for k in ("hp_zipf_s", "in_emb", "in_centroids"))
        with jax.enable_x64(wide):
            soft = posteriors(points, centroids, float(data["hp_sigma"]))
            np.testing.assert_allclose(soft, data["out_posterior"], rtol=rtol, atol=1e-7)
            np.testing.assert_allclose(soft.mean(0), data["out_p_unsorted"], rtol=rtol)
            np.testing.assert_allclose(zipf_prior(soft, s), data["out_zipf"], rtol=rtol)
            kl = zipf_divergence(soft.mean(0), s)
            np.testing.assert_allclose(kl, data["out_kl"], rtol=1e-7 if wide else rtol)
            hard = np.bincount(np.argmax(soft, 1), minlength=len(centroids)) / len(points)
            np.testing.assert_allclose(zipf_divergence(hard, s), data["out_kl_hard"], rtol=rtol)
            equal, single = np.full(len(centroids), 1 / len(centroids)), np.eye(len(centroids))[1]
            for name, shares in (("uniform_k", equal), ("collapsed", single)):
                want = data[f"out_kl_{name}"]
                np.testing.assert_allclose(zipf_divergence(shares, s), want, rtol=rtol)

    @parameterized.parameters(
        ((0.2, 0.5, 0.3), 0.0041494),  # in any order
        ((1 / 3, 1 / 3, 1 / 3), 0.1047767),
        ((6 / 11, 3 / 11, 2 / 11), 0.0),
        ((0.0, 1.0, 0.0), 0.606136),
    )
    def test_three_clusters(self, shares, want):
        np.testing.assert_allclose(zipf_prior(3), [6 / 11, 3 / 11, 2 / 11], rtol=1e-6)
        self.assertAlmostEqual(float(zipf_divergence(jnp.array(shares))), want, places=6)

    def test_a_wide_deviation_makes_all_clusters_equal(self):
        data = load("evolving_losses", False)
        soft = posteriors(data["in_emb"], data["in_centroids"], 1e6).mean(0)
        kl = zipf_divergence(soft, data["hp_zipf_s"])
        np.testing.assert_allclose(kl, data["out_kl_uniform_k"], rtol=1e-5)

    def test_an_empty_cluster_has_a_finite_gradient(self):
        slope = jax.grad(zipf_divergence)(jnp.array([0.0, 0.25, 0.75]))
        self.assertTrue(np.isfinite(slope).all())


if __name__ == "__main__":
    absltest.main()
