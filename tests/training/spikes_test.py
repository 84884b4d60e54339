import math
import random

from absl.testing import absltest

from ssl_jax.training.spikes import LEAST, Spikes


class SpikesTest(absltest.TestCase):
    def spike_steps(self, losses, threshold=10.0):
        spikes = Spikes(threshold)
        return [i for i, loss in enumerate(losses) if spikes.height(loss) is not None]

    def test_noise_and_a_falling_loss_are_none(self):
        draw = random.Random(0)
        noisy = [5 * math.exp(-i / 100) + draw.gauss(0, 0.05) for i in range(500)]
        self.assertEqual(self.spike_steps(noisy), [])

    def test_a_spike_and_the_height_of_it(self):
        losses = [1.0, 2.0, 3.0] * 10
        self.assertEqual(self.spike_steps([*losses, 30.0, *losses]), [30])
        spikes = Spikes(10.0)
        for loss in losses:
            self.assertIsNone(spikes.height(loss))
        # median 2, median absolute deviation 1
        self.assertAlmostEqual(spikes.height(30.0), 28 / 1.4826)

    def test_no_spread_at_all(self):
        self.assertEqual(self.spike_steps([2.0] * 20 + [2.1, 2.3]), [21])
        self.assertEqual(self.spike_steps([0.0] * 20 + [1.0]), [])

    def test_too_few_losses_none_finite_or_none_wanted(self):
        self.assertEqual(self.spike_steps([1.0] * (LEAST - 1) + [99.0]), [])
        self.assertEqual(self.spike_steps([1.0] * LEAST + [math.nan, math.inf]), [])
        self.assertEqual(self.spike_steps([1.0] * 20 + [99.0], threshold=0.0), [])


if __name__ == "__main__":
    absltest.main()
