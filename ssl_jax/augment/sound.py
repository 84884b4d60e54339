"""Spectrograms of sound tracks, as images for the networks of images."""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
FLOOR = 1e-6  # power of silence: -60 dB
CENTRE, SCALE = -40.0, 20.0  # decibels that become 0, and decibels per unit


def spectrogram(sound: Array, rows: int, bins: int) -> Array:
    """Compute the power in decibels of sound (B, S) in [-1, 1): (B, rows, bins, 1).

    Row i is a Hann window of 2 (S // rows) samples that starts at sample i (S // rows), with
    silence after the end. The bins divide the frequencies up to half the sampling rate evenly; each
    is the mean power over its frequencies. -40 dB becomes 0 and -20 dB becomes 1.

    The transform is a matrix product, which needs no FFT of a batch that is split over devices.

    Raises:
      ValueError: fewer samples than rows.
    """
    hop = sound.shape[1] // rows
    if not hop:
        raise ValueError(f"spectrogram: {sound.shape[1]} samples do not fill {rows} rows")
    padded = jnp.pad(sound[:, : rows * hop], ((0, 0), (0, hop)))
    halves = padded.reshape(len(sound), rows + 1, hop)
    windows = jnp.concatenate([halves[:, :-1], halves[:, 1:]], axis=-1)  # (B, rows, 2 hop)
    cosine, sine = (jnp.asarray(part, sound.dtype) for part in _transform(hop))
    power = jnp.square(windows @ cosine) + jnp.square(windows @ sine)
    power = power @ jnp.asarray(_bands(hop + 1, bins), sound.dtype)
    return ((10 * jnp.log10(power + FLOOR) - CENTRE) / SCALE)[..., None]


def _transform(hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the real and the imaginary part (2 hop, hop + 1) of the windowed Fourier transform,
    under which a sine of amplitude 1 has power 1.
    """
    time = np.arange(2 * hop)
    window = np.sin(np.pi * time / (2 * hop)) ** 2
    phase = 2 * np.pi * np.outer(time, np.arange(hop + 1)) / (2 * hop)
    scaled = window[:, None] * 2 / window.sum()
    return scaled * np.cos(phase), scaled * np.sin(phase)


def _bands(count: int, bins: int) -> np.ndarray:
    """Return weights (count, bins), with columns of sum 1, of the means over equal ranges."""
    edges = np.arange(bins + 1) * count / bins
    starts = np.arange(count)[:, None]
    overlap = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    overlap = np.maximum(overlap, 0)
    return overlap / overlap.sum(0)
