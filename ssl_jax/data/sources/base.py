"""The interface of data sets, and data sets in memory."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from ssl_jax.data.label_sets import LabelSets
from ssl_jax.data.levels import Range, measure, to_uint8

VERSION = 2  # of fingerprints; those of version 1 have no number and omit the pixels


def with_version(digest: str, version: int) -> str:
    """Prefix a fingerprint with its version; version 1 has no prefix."""
    return digest if version == 1 else f"{version}:{digest}"


class Sound(NamedTuple):
    """A sound track: samples (n,) int16, mono, and their number per second."""

    samples: np.ndarray
    rate: int


class Source(Protocol):
    """Random access to examples, each at a stable index. Thread-safe.

    Attributes with a default are optional.

    Attributes:
      name: name that the user gave.
      class_names: names of the classes, () without labels.
      labels: (N,) int32, -1 for an example without a label; None if no example has one.
      label_sets: the labels of each example, none or several, of the same classes; None if the data
        set has none. Evaluations read them if there are no `labels`.
      unsure: classes of each example of which it is not known whether they are among its labels:
        neither right nor wrong (VOC's difficult objects); None if there are none.
      arrays: (N, H, W, C) uint8 for sets in memory whose images have one size, else None.
      captions: the captions of each example, none or several; None if no example has any.
      names: name of each example in lists of examples: a path with "/", or a file name; None if
        there are no names.
      lengths: (N,) int32, frames of each example, for sets of clips; None for sets of images.
      left_out: reason -> number of files, members or labels that are present but not used.
      value_range: values that become 0 to 255, for pixels that are not 8-bit: see `read_in`.
      masked: whether there is a mask of each image, which `read_mask` reads.
      sounded: whether there is a sound track of each clip, which `read_sound` reads.
      moving: whether there is the flow of each frame of a clip, which `read_flow` reads.
      actions: numbers of an action, of an environment; 0 for data sets.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray | None
    label_sets: LabelSets | None = None
    unsure: LabelSets | None = None
    arrays: np.ndarray | None = None
    captions: Sequence[Sequence[str]] | None = None
    names: Sequence[str] | None = None
    lengths: np.ndarray | None = None
    left_out: Mapping[str, int] = MappingProxyType({})
    value_range: Range = ()
    masked: bool = False
    sounded: bool = False
    moving: bool = False
    actions: int = 0

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.class_names)

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | np.ndarray:
        """Read the encoded image (of a clip, its middle frame), or (H, W, C) numbers.

        Raises:
          OSError: an error that may be transient.
          DecodeError: a permanent error.
        """
        ...

    def read_frame(self, index: int, frame: int) -> bytes | np.ndarray:
        """Read frame `frame`, 0 to lengths[index] - 1, of a clip, in the form of `read`."""
        raise TypeError(f"{self.name} holds images, not clips")

    def read_mask(self, index: int) -> np.ndarray | Path:
        """Return the mask of an image, (H, W) uint8, or the PNG file that holds it."""
        raise TypeError(f"{self.name} has no masks")

    def read_sound(self, index: int) -> Path | Sound:
        """Return the sound of all frames of a clip, or the WAV file that holds it."""
        raise TypeError(f"{self.name} has no sound")

    def read_flow(self, index: int, frame: int) -> np.ndarray:
        """Return the motion (y, x) of each pixel of a frame to the next one, in pixels: (H, W, 2)
        float32.
        """
        raise TypeError(f"{self.name} has no flow")

    def read_in(self, value_range: Range) -> None:
        """Set the range that becomes 0 to 255 for pixels that are not 8-bit; () takes the range of
        each image.
        """
        self.value_range = value_range

    def describe(self, index: int) -> str:
        """Describe the place of example `index` for messages: a path, or "index i of NAME"."""
        return f"index {index} of {self.name}"

    def origin(self, index: int) -> tuple["Source", int]:
        """Return the data set, and its row, that example `index` comes from; parts and mixtures
        return those they are made of.
        """
        return self, index

    def fingerprint(self, version: int = VERSION) -> str:
        """Digest the data: the same for a copy on another machine, different if names, sizes,
        labels, class names, captions or a sample of the bytes differ.

        Version 1, which older runs store, is `layout` alone.
        """
        if version == 1:
            return self.layout()
        digest = hashlib.blake2b(self.layout().encode(), digest_size=16)
        for part in self.content():
            digest.update(part)
        return with_version(digest.hexdigest(), version)

    def matches(self, fingerprint: str) -> bool:
        """True if the data have this fingerprint, of any version."""
        version = fingerprint.partition(":")[0] if ":" in fingerprint else "1"
        return version in ("1", str(VERSION)) and self.fingerprint(int(version)) == fingerprint

    def layout(self) -> str:
        """Digest the names and sizes of all files; not used for parts."""
        return self.name

    def content(self) -> Iterator[bytes]:
        """Yield what a fingerprint holds beside `layout`: labels, class names and captions."""
        if self.labels is not None:
            yield np.ascontiguousarray(self.labels, np.int32).tobytes()
            yield repr(self.class_names).encode("utf-8", "surrogatepass")
        yield from self.label_set_content()
        for texts in self.captions or ():
            yield ("\0".join(texts) + "\n").encode("utf-8", "surrogatepass")

    def label_set_content(self) -> Iterator[bytes]:
        """Yield the part of `content` that is about lists of labels."""
        if self.label_sets is not None:
            yield self.label_sets.tobytes()
        if self.unsure is not None:
            yield self.unsure.tobytes()


class ArraySource(Source):
    """A `Source` of images in memory.

    Args:
      name: name of the data set, for messages.
      arrays: (N, H, W, C), uint8 or other numbers.
      labels: (N,) integers, or None.
      class_names: by default the numbers 0 to max(labels).
      captions: captions of each example, or None.
      masks: masks of the images, (N, H, W) uint8, or None.
    """

    def __init__(
        self,
        name: str,
        arrays: np.ndarray,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
        captions: Sequence[Sequence[str]] | None = None,
        masks: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self._masks, self.masked = masks, masks is not None
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

    def read_mask(self, index: int) -> np.ndarray:
        assert self._masks is not None
        return self._masks[index]

    def layout(self) -> str:
        """Digest the pixels and the labels."""
        digest = hashlib.blake2b(repr(self._pixels.shape).encode(), digest_size=16)
        digest.update(self._pixels.data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()
