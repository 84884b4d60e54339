"""Captions as token numbers: their UTF-8 bytes, which need no vocabulary and leave nothing out."""

from collections.abc import Sequence

import numpy as np

from ssl_jax.data.draws import uniform

PADDING, FIRST_BYTE, START, END = 0, 1, 257, 258
_CAPTION = 1 << 20  # tells these draws from those of the crops, which have a view group here
VOCABULARY = 259  # the end has the highest number, as in CLIP, which finds it by argmax


def tokens(text: str, length: int) -> np.ndarray:
    """(length,) int32: start, the bytes as far as there is room, end, padding."""
    data = np.frombuffer(text.encode(), np.uint8)[: length - 2].astype(np.int32)
    out = np.full(length, PADDING, np.int32)
    out[: len(data) + 2] = [START, *(data + FIRST_BYTE), END]
    return out


def caption_tokens(
    captions: Sequence[Sequence[str]], index: np.ndarray, length: int, seed: int, epoch: int
) -> np.ndarray:
    """(b, length) int32: for each example one of its captions, drawn from (seed, epoch, index).

    An example without a caption has the empty one.
    """
    draws = uniform(seed, epoch, index, _CAPTION, shape=(1,))[:, 0]
    chosen = []
    for i, draw in zip(index, draws, strict=True):
        texts = captions[int(i)] or ("",)
        chosen.append(tokens(texts[int(draw * len(texts))], length))
    return np.stack(chosen)
