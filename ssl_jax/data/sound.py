"""Sound tracks of clips: WAV files of 16-bit samples, read by the standard library."""

import wave
from pathlib import Path

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources.base import Sound


def read_wav(file: Path) -> Sound:
    """Read a WAV file of 16-bit PCM; several channels are averaged.

    Raises:
      UserError: no such file, or one in another format.
    """
    try:
        with wave.open(str(file)) as track:
            if track.getsampwidth() != 2:
                raise wave.Error(f"samples of {8 * track.getsampwidth()} bits")
            samples = np.frombuffer(track.readframes(track.getnframes()), "<i2")
            channels, rate = track.getnchannels(), track.getframerate()
    except (OSError, EOFError, wave.Error) as e:
        reason = getattr(e, "strerror", None) or str(e) or "it is cut off"
        raise UserError(f"{file}: expected a WAV file of 16-bit PCM samples: {reason}") from None
    if channels > 1:
        samples = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(1)
    return Sound(np.round(samples).astype(np.int16), rate)


def window(track: np.ndarray, first: int, count: int) -> np.ndarray:
    """Take `count` samples from `first` on; beyond the end there is silence."""
    part = track[first : first + count]
    return np.pad(part, (0, count - len(part)))
