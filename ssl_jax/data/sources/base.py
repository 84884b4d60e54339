"""What every data set offers, and the in-memory kind."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ssl_jax.data.levels import Range, measure, to_uint8

VERSION = 2  # of fingerprints; those of version 1 have no number and hold no pixels


def numbered(digest: str, version: int) -> str:
    """A fingerprint with the number of its version before it; of version 1 none."""
    return digest if version == 1 else f"{version}:{digest}"


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
      left_out: reason -> number of files, members or labels that lie there and are not used.
      value_range: which values become 0 to 255, of pixels that are not 8-bit: see `read_in`.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray | None
    arrays: np.ndarray | None = None
    captions: Sequence[Sequence[str]] | None = None
    names: Sequence[str] | None = None
    lengths: np.ndarray | None = None
    left_out: Mapping[str, int] = MappingProxyType({})
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

    def fingerprint(self, version: int = VERSION) -> str:
        """Digest of what the data are: the same for a copy on another machine, another one as soon
        as names, sizes, labels, class names, captions or a sample of the bytes differ.

        Version 1, which runs of before version 2 hold, is `layout` alone.
        """
        if version == 1:
            return self.layout()
        digest = hashlib.blake2b(self.layout().encode(), digest_size=16)
        for part in self.content():
            digest.update(part)
        return numbered(digest.hexdigest(), version)

    def matches(self, fingerprint: str) -> bool:
        """Whether the data have this fingerprint, of whichever version."""
        version = fingerprint.partition(":")[0] if ":" in fingerprint else "1"
        return version in ("1", str(VERSION)) and self.fingerprint(int(version)) == fingerprint

    def layout(self) -> str:
        """Digest of the names and sizes of all that is read; of a part, unused."""
        return self.name

    def content(self) -> Iterator[bytes]:
        """What a fingerprint holds beside `layout`; here labels, class names and captions."""
        if self.labels is not None:
            yield np.ascontiguousarray(self.labels, np.int32).tobytes()
            yield repr(self.class_names).encode("utf-8", "surrogatepass")
        for texts in self.captions or ():
            yield ("\0".join(texts) + "\n").encode("utf-8", "surrogatepass")


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

    def layout(self) -> str:
        """Digest of the pixels and the labels."""
        digest = hashlib.blake2b(repr(self._pixels.shape).encode(), digest_size=16)
        digest.update(self._pixels.data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()
