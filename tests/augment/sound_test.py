"""Spectrograms: a tone is where its pitch and time say, in decibels; NumPy's transform."""

import numpy as np
from absl.testing import absltest

from ssl_jax.augment.sound import spectrogram


def decibels(sound, rows, bins):
    return 20 * np.asarray(spectrogram(sound, rows, bins))[..., 0] - 40


class SpectrogramTest(absltest.TestCase):
    def test_a_tone_in_one_half(self):
        time = np.arange(640)
        tone = np.where(time < 320, np.sin(2 * np.pi * time / 8), 0).astype(np.float32)
        (power,) = decibels(tone[None], 8, 41)  # windows of 160, so frequency 20 of 0 to 80
        self.assertEqual(power.shape, (8, 41))
        np.testing.assert_array_equal(power[:3].argmax(1), 10)
        np.testing.assert_allclose(power[5:], -60, atol=1e-3)
        self.assertLess(power[1, 30], -50)

    def test_full_scale_is_zero_decibels(self):
        tone = np.sin(2 * np.pi * np.arange(640, dtype=np.float32) / 8)[None]
        np.testing.assert_allclose(decibels(tone, 8, 81)[0, 2, 20], 0, atol=0.1)

    def test_power_is_that_of_the_fourier_transform(self):
        sound = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
        power = decibels(sound, 5, 11)
        window = np.sin(np.pi * np.arange(20) / 20) ** 2
        for row in range(4):
            part = sound[:, row * 10 : row * 10 + 20] * window * 2 / window.sum()
            want = 10 * np.log10(np.abs(np.fft.rfft(part)) ** 2 + 1e-6)
            np.testing.assert_allclose(power[:, row], want, atol=1e-3)

    def test_too_short(self):
        with self.assertRaisesRegex(ValueError, "3 samples do not fill 4 rows"):
            spectrogram(np.zeros((1, 3), np.float32), 4, 4)


if __name__ == "__main__":
    absltest.main()
