"""Records of images in ArrayRecord files: `tf.train.Example` messages, without TensorFlow.

`ssl-jax prepare` writes what TFDS, TF-slim and most other writers write, so that its shards can be
read by any of their readers and theirs by `array_record:`. An example is a map from names to lists
of bytes, of floats or of integers, as protobuf wire format
(https://protobuf.dev/programming-guides/encoding; github.com/tensorflow/tensorflow,
core/example/{example,feature}.proto):

    Example {1: Features {1: repeated Entry {1: name, 2: Feature}}}
    Feature {1: BytesList | 2: FloatList | 3: Int64List} {1: repeated value}

Ours hold `image/encoded` (the bytes of an image file), `image/class/label` (a class number, -1
where there is none; left out of unlabelled sets) and `image/caption` (UTF-8; any number).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

IMAGE_KEYS = ("image/encoded", "image", "img", "jpg")
LABEL_KEYS = ("image/class/label", "label", "fine_label")
CAPTION_KEYS = ("image/caption", "captions", "caption", "captions/text", "text")

Values = list[bytes] | np.ndarray
_VARINT, _BYTES, _SIZES = 0, 2, {1: 8, 5: 4}  # wire types


class RecordError(ValueError):
    """The bytes are no `tf.train.Example`, or one without an image."""


class Record(NamedTuple):
    """One example: encoded image, class number or None, captions."""

    image: bytes
    label: int | None = None
    captions: tuple[str, ...] = ()


def encode(record: Record) -> bytes:
    """`record` as bytes; `decode` is its inverse."""
    features: dict[str, Sequence[bytes] | Sequence[int]] = {IMAGE_KEYS[0]: [record.image]}
    if record.label is not None:
        features[LABEL_KEYS[0]] = [record.label]
    if record.captions:
        features[CAPTION_KEYS[0]] = [c.encode() for c in record.captions]
    return encode_features(features)


def decode(data: bytes, image_keys: Sequence[str] = IMAGE_KEYS) -> Record:
    """The image, label and captions under the first of their keys that `data` has.

    Raises:
      RecordError: see there.
    """
    features = decode_features(data)
    image = _first(features, image_keys)
    if not isinstance(image, list) or not image:
        found = ", ".join(sorted(features)) or "nothing"
        raise RecordError(f"no image under {' or '.join(image_keys)}; it holds {found}")
    label, captions = _first(features, LABEL_KEYS), _first(features, CAPTION_KEYS)
    return Record(
        image[0],
        int(label[0]) if _is_number(label) else None,
        tuple(c.decode(errors="replace") for c in captions or ())
        if isinstance(captions, list)
        else (),
    )


def encode_features(features: Mapping[str, Sequence[bytes] | Sequence[int]]) -> bytes:
    """A `tf.train.Example` of lists of bytes and lists of integers."""
    entries = []
    for name, values in features.items():
        if values and isinstance(values[0], bytes):
            feature = _field(1, b"".join(_field(1, v) for v in values if isinstance(v, bytes)))
        else:
            packed = b"".join(_varint(v % 2**64) for v in values if isinstance(v, int))
            feature = _field(3, _field(1, packed))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def decode_features(data: bytes) -> dict[str, Values]:
    """Name -> list of bytes, (n,) float32 or (n,) int64.

    Raises:
      RecordError: see there.
    """
    try:
        return {
            name: values
            for features in _submessages(memoryview(data), 1)
            for entry in _submessages(features, 1)
            for name, values in [_entry(entry)]
        }
    except (IndexError, TypeError, UnicodeDecodeError, ValueError) as e:
        raise RecordError(f"no tf.train.Example: {e}") from None


def _entry(data: memoryview) -> tuple[str, Values]:
    name, values = "", None
    for number, value in _fields(data):
        if number == 1:
            name = bytes(value).decode()
        elif number == 2:
            for kind, content in _fields(value):
                values = _values(kind, content)
    return name, [] if values is None else values


def _values(kind: int, content: memoryview) -> Values:
    found = [v for number, v in _fields(content) if number == 1]
    if kind == 1:
        return [bytes(v) for v in found]
    if kind == 2:  # packed, or one by one
        return np.frombuffer(b"".join(bytes(v) for v in found), "<f4")
    numbers: list[int] = []
    for value in found:
        numbers.extend([value] if isinstance(value, int) else _varints(value))
    return np.array(numbers, np.uint64).astype(np.int64)


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(field number, content): a memoryview, or the int of a varint."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(data):
            raise ValueError("it is cut off")
        yield tag >> 3, data[at : at + size]
        at += size


def _submessages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, value in _fields(data) if number == wanted)


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield value


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value % 2**64, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _first(features: Mapping[str, Values], keys: Sequence[str]) -> Values | None:
    return next((features[k] for k in keys if k in features), None)


def _is_number(label: Values | None) -> bool:
    return isinstance(label, np.ndarray) and label.dtype == np.int64 and label.size == 1
