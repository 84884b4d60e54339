"""What every data set offers, and the in-memory kind."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np

from ssl_jax.data.levels import Range, measure, to_uint8


class Source(Protocol):
    """Random access to examples, each at a stable index. Thread-safe.

    What has a value here is what a kind of data set need not define that has no such thing.

    Attributes:
      name: what the user called it.
      class_names: names of the classes, () without labels.
      labels: (N,) int32, -1 for an example without one; None if no example has one.
      arrays: (N, H, W, C) uint8 for sets in memory whose images have one size, else None.
      captions: the captions of each example, none or several; None if no example has one.
      names: of each example, as a list of examples calls it: a path with "/", or a file name; None
        where there are none.
      lengths: (N,) int32, frames of each example, for sets of clips; None for sets of images.
      value_range: which values become 0 to 255, of pixels that are not 8-bit: see `read_in`.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray | None
    arrays: np.ndarray | None = None
    captions: Sequence[Sequence[str]] | None = None
    names: Sequence[str] | None = None
    lengths: np.ndarray | None = None
    value_range: Range = ()

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.class_names)

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | np.ndarray:
        """The encoded image (of a clip, its middle frame), or (H, W, C) numbers, mostly uint8.

        May raise OSError, for what may pass, and DecodeError, for what will not.
        """
        ...

    def read_frame(self, index: int, frame: int) -> bytes | np.ndarray:
        """Frame `frame`, 0 to lengths[index] - 1, of a clip, as `read` would give it."""
        raise TypeError(f"{self.name} holds images, not clips")

    def read_in(self, value_range: Range) -> None:
        """From now on, `value_range` becomes 0 to 255 wherever pixels are not 8-bit. Without one,
        it is the range of each image by itself.
        """
        self.value_range = value_range

    def describe(self, index: int) -> str:
        """Where example `index` lies, for messages: a path, or "index i of NAME"."""
        return f"index {index} of {self.name}"

    def fingerprint(self) -> str:
        """A digest of what the data are, to tell on resume whether they changed."""
        ...


class ArraySource(Source):
    """A `Source` of images in memory.

    Args:
      name: what the user called it.
      arrays: (N, H, W, C), uint8 or other numbers.
      labels: (N,) integers, or None.
      class_names: by default the numbers 0 to max(labels).
      captions: of each example, or None.
    """

    def __init__(
        self,
        name: str,
        arrays: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        captions: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.name = name
        self._pixels = np.ascontiguousarray(arrays)
        self.read_in(
            () if arrays.dtype == np.uint8 else measure(list(self._pixels[:: len(self) // 256 + 1]))
        )
        self.labels = None if labels is None else labels.astype(np.int32)
        if self.labels is not None and not class_names:
            class_names = [str(i) for i in range(int(self.labels.max(initial=-1)) + 1)]
        self.class_names = tuple(class_names)
        self.captions = captions

    @cached_property
    def arrays(self) -> np.ndarray:  # type: ignore[override]
        return to_uint8(self._pixels, self.value_range)

    def read_in(self, value_range: Range) -> None:
        self.value_range = value_range
        self.__dict__.pop("arrays", None)

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, index: int) -> np.ndarray:
        return self._pixels[index]

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(repr(self._pixels.shape).encode(), digest_size=16)
        digest.update(self._pixels.data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()
