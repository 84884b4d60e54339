"""Zipf's divergence of features: clusters of known sizes, collapse, clips in place of images."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core import sharding
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import moving_digits
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.zipf import Zipf, cluster_shares, divergence
from ssl_jax.losses.zipf import zipf_divergence
from ssl_jax.nets.backbones.vit_video import make as vit_video
from ssl_jax.objectives.base import Encoder, Probe


class ZipfTest(absltest.TestCase):
    def test_clusters_of_zipfs_sizes(self):
        draw = np.random.default_rng(0)
        counts = np.array([60, 30, 20, 15])
        centres = np.repeat(20 * np.eye(4, 5), counts, axis=0)
        soft, hard = cluster_shares(
            centres + draw.normal(size=centres.shape), 4, None, jax.random.key(3)[None]
        )
        np.testing.assert_allclose(np.sort(soft[0])[::-1], counts / 125, atol=1e-3)
        np.testing.assert_allclose(np.sort(hard[0])[::-1], counts / 125, atol=1e-6)
        self.assertLess(divergence(soft), 1e-4)

    def test_mean_over_the_starts(self):
        points = np.random.default_rng(0).normal(size=(200, 3))
        keys = jax.random.split(jax.random.key(0), 4)
        soft, _ = cluster_shares(points, 5, None, keys)
        each = [float(zipf_divergence(shares)) for shares in soft]
        self.assertGreater(max(each) - min(each), 1e-3)
        self.assertAlmostEqual(divergence(soft), np.mean(each), places=6)
        alone, _ = cluster_shares(points, 5, None, keys[2:3])
        np.testing.assert_allclose(alone[0], soft[2], rtol=1e-6)

    def test_equal_rows_stay_finite(self):
        soft, _ = cluster_shares(np.ones((20, 3)), 4, None, jax.random.key(0)[None])
        self.assertTrue(np.isfinite(soft).all())

    def test_a_network_of_clips_sees_clips(self):
        source = moving_digits.load("", "eval")
        images = Images.of(
            source,
            source,
            64,
            64,
            view=View(16, recipe="normalize"),
            channels=3,
            batch_size=32,
            mesh=sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1]),
        )
        net = vit_video(None, 8, 16, dim=8, depth=1, heads=2, frames=4, pool="avg")
        encoder = Encoder(*jax.jit(net.init)(jax.random.key(0)), net)
        subject = Subject(encoder, images, Probe())
        clips, index = subject.map_clips(_motion, images.test)
        self.assertEqual(clips.shape, (64,))
        self.assertTrue((clips > 0).all())  # frames differ
        np.testing.assert_array_equal(np.sort(index), np.sort(images.test.rows))
        numbers = Zipf(clusters=5).measure(subject)
        self.assertEqual(set(numbers), {"zipf_kl", "zipf_kl_hard", "zipf_entropy"})
        self.assertBetween(numbers["zipf_entropy"], 0, np.log(5) + 1e-6)


def _motion(encoder, batch):
    return jnp.abs(jnp.diff(batch.images, axis=1)).max((1, 2, 3, 4))


if __name__ == "__main__":
    absltest.main()
