import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssl_jax.augment import mixing

B, SIDE, K = 8, 12, 5
IMAGES = np.random.default_rng(0).random((B, SIDE, SIDE, 3)).astype(np.float32)
TARGETS = np.eye(K, dtype=np.float32)[np.arange(B) % K]
KEYS = jax.random.split(jax.random.key(0), 1000)


class MixingTest(parameterized.TestCase):
    def test_mixup_is_a_blend_with_the_reversed_batch(self):
        images, targets = mixing.mixup(jax.random.key(3), IMAGES, TARGETS)
        share = (images[0, 0, 0, 0] - IMAGES[7, 0, 0, 0]) / (IMAGES[0] - IMAGES[7])[0, 0, 0]
        self.assertBetween(float(share), 0.0, 1.0)
        for got, x in ((images, IMAGES), (targets, TARGETS)):
            np.testing.assert_allclose(got, share * x + (1 - share) * x[::-1], atol=1e-5)

    def test_cutmix_pastes_a_box_and_counts_its_pixels(self):
        for key in KEYS[:20]:
            images, targets = mixing.cutmix(key, IMAGES, TARGETS)
            pasted = (np.asarray(images) == IMAGES[::-1]).all((0, 3))
            own = (np.asarray(images) == IMAGES).all((0, 3))
            self.assertTrue((pasted ^ own).all())
            rows, columns = pasted.any(1), pasted.any(0)
            np.testing.assert_array_equal(pasted, np.outer(rows, columns))
            share = 1 - pasted.mean()
            want = share * TARGETS + (1 - share) * TARGETS[::-1]
            np.testing.assert_allclose(targets, want, atol=1e-6)

    @parameterized.parameters((0.8, 0.8), (1.0, 1.0))
    def test_shares_are_beta(self, mixup_alpha, cutmix_alpha):
        targets = np.eye(2, dtype=np.float32)
        image = jnp.zeros((2, SIDE, SIDE, 1), jnp.float32)
        mix = jax.vmap(lambda k: mixing.mixup(k, image, targets, mixup_alpha)[1][0, 0])(KEYS)
        # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
        deviation = 0.5 / np.sqrt(2 * mixup_alpha + 1)
        self.assertAlmostEqual(np.mean(mix), 0.5, delta=5 * deviation / np.sqrt(1000))
        self.assertAlmostEqual(np.std(mix), deviation, delta=0.02)
        cut = jax.vmap(lambda k: mixing.cutmix(k, image, targets, cutmix_alpha)[1][0, 0])(KEYS)
        rng, expected = np.random.default_rng(0), []
        for _ in range(1000):  # the published box
            side = np.sqrt(1 - rng.beta(cutmix_alpha, cutmix_alpha))
            cy, cx, half = *rng.integers(0, SIDE, 2), int(SIDE * side) // 2
            y, x = (min(c + half, SIDE) - max(c - half, 0) for c in (cy, cx))
            expected.append(1 - y * x / SIDE**2)
        error = np.std(expected) * np.sqrt(2 / 1000)
        self.assertAlmostEqual(np.mean(cut), np.mean(expected), delta=5 * error)
        self.assertAlmostEqual(np.std(cut), np.std(expected), delta=5 * error)

    def test_either(self):
        run = jax.vmap(lambda k: mixing.mixup_or_cutmix(k, IMAGES[..., :1], TARGETS, cutmix_p=0.3))
        images = np.asarray(run(KEYS[:400])[0])
        x = IMAGES[..., :1]
        pasted = ((images == x) | (images == x[::-1])).all((1, 2, 3, 4))
        self.assertAlmostEqual(pasted.mean(), 0.3, delta=5 * np.sqrt(0.21 / 400))

    def test_devices_do_not_matter(self):
        mesh = Mesh(np.array(jax.devices()), ("data",))
        placed = jax.device_put((IMAGES, TARGETS), NamedSharding(mesh, PartitionSpec("data")))
        for mix in (mixing.mixup, mixing.cutmix):
            run = jax.jit(lambda x, t, mix=mix: mix(jax.random.key(1), x, t))
            for got, want in zip(run(*placed), run(IMAGES, TARGETS), strict=True):
                np.testing.assert_allclose(got, want, atol=1e-6)


if __name__ == "__main__":
    absltest.main()
