"""Fault-tolerant reading of pixels: retries, replacement and counts of corrupt images."""

import contextlib
import math
import threading
import time

import numpy as np
from absl import logging

from ssl_jax.core.errors import UserError
from ssl_jax.data.decode import TRIES, DecodeError, Room, decode, native, to_channels
from ssl_jax.data.draws import fold
from ssl_jax.data.levels import to_uint8
from ssl_jax.data.sources.base import Source

RETRIES = 3
_FIRST_WAIT = 0.1  # seconds; doubled at each retry
_logged: set[str] = set()
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def num_channels(source: Source, channels: int, bands: int = 0) -> int:
    """Return the channels of the images read from `source` for a request of `channels` (0: as in
    the data).

    For encoded images 0 is `bands`, by default the bands of the first image, or three if it has
    only one. Other numbers are checked when the images are decoded.

    Raises:
      UserError: the images cannot be converted to this number of channels.
    """
    if source.arrays is None:
        return channels or bands or _bands(source)
    have = source.arrays.shape[-1]
    possible = (1, 3) if have in (1, 3) else (have,)
    if channels and channels not in possible:
        raise UserError(
            f"data.channels={channels}: {source.name} can be read with "
            f"{' or '.join(map(str, possible))} channels"
        )
    return channels or have


def _bands(source: Source) -> int:
    for row in range(min(len(source), TRIES)):
        with contextlib.suppress(DecodeError, OSError):
            data = source.read(row)
            image = data if isinstance(data, np.ndarray) else native(data, 0, lambda *_: 8)
            return 3 if image.shape[-1] == 1 else image.shape[-1]
    return 3


class Reader:
    """Thread-safe reader of the examples of `source` as (H, W, channels) uint8.

    Transient read errors are retried. A corrupt image (or a missing file) is replaced by the pixels
    of another index, drawn from (seed, index, attempt): the same on each host and after resuming.
    It is logged once with its path and counted in `bad`.

    Raises (from `pixels`):
      UserError: more than `max_bad_fraction` of the examples (rounded up) are corrupt.
    """

    def __init__(
        self, source: Source, channels: int = 0, seed: int = 0, max_bad_fraction: float = 0.01
    ) -> None:
        self.source = source
        self.channels = num_channels(source, channels)
        self.bad: dict[int, str] = {}  # index -> reason, in the order of discovery
        self._seed = seed
        self._allowed = math.ceil(max_bad_fraction * len(source))
        self._lock = threading.Lock()

    def pixels(self, index: int, room: Room | None = None) -> tuple[np.ndarray, int]:
        """Read the image of `index` or of its replacement; also return the index of the pixels.

        With `room`, for training, encoded images are decoded faster and perhaps smaller: see
        `decode`.
        """
        attempt, chosen = 0, index
        while (image := self.try_pixels(chosen, room)) is None:
            attempt += 1
            chosen = int(fold(self._seed, index, attempt) % np.uint64(len(self.source)))
        return image, chosen

    def try_pixels(self, index: int, room: Room | None = None) -> np.ndarray | None:
        """Read the image of `index`; None if it is corrupt."""
        if index in self.bad:
            return None
        try:
            data = self._read(index)
            if isinstance(data, np.ndarray):
                return to_channels(to_uint8(data, self.source.value_range), self.channels)
            return decode(data, self.channels, room, self.source.value_range)
        except (DecodeError, OSError, MemoryError) as e:
            self._report(index, str(e))
            return None

    def _read(self, index: int) -> bytes | np.ndarray:
        for retry in range(RETRIES):
            try:
                return self.source.read(index)
            except _LASTING:
                raise
            except OSError:
                time.sleep(_FIRST_WAIT * 2**retry)
        return self.source.read(index)

    def _report(self, index: int, reason: str) -> None:
        with self._lock:
            if index in self.bad:
                return
            self.bad[index] = reason
            first = next(iter(self.bad))
            count = len(self.bad)
        where = self.source.describe(index)
        if where not in _logged:  # several readers of a run may read the same image
            _logged.add(where)
            logging.warning("corrupt image %s: %s", where, reason)
        if count > self._allowed or count == len(self.source):
            raise UserError(
                f"{count} of {len(self.source)} images of {self.source.name} cannot be read "
                f"(data.max_bad_fraction allows {self._allowed}); the first is "
                f"{self.source.describe(first)}: {self.bad[first]}"
            )
