"""Records of images in ArrayRecord files: `tf.train.Example` messages, without TensorFlow.

`ssl-jax prepare` writes the format of TFDS, TF-slim and most other writers, so that their readers
can read its shards and `array_record:` can read theirs. An example is a map from names to lists of
bytes, floats or integers (github.com/tensorflow/tensorflow, core/example/example.proto). Our
records hold `image/encoded` (the bytes of an image file), `image/class/label` (a class number, -1
for none; absent in unlabelled sets), `image/caption` (UTF-8; any number) and `image/filename` (if
the source has names).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example

IMAGE_KEYS = ("image/encoded", "image", "img", "jpg")
LABEL_KEYS = ("image/class/label", "label", "fine_label")
CAPTION_KEYS = ("image/caption", "captions", "caption", "captions/text", "text")
NAME_KEYS = ("image/filename", "file_name", "filename")

Values = list[bytes] | np.ndarray


class RecordError(ValueError):
    """The bytes are not a `tf.train.Example` with an image."""


class Record(NamedTuple):
    """One example: encoded image, class number or None, captions, file name or "", and a
    description of an invalid label.
    """

    image: bytes
    label: int | None = None
    captions: tuple[str, ...] = ()
    name: str = ""
    odd_label: str = ""


def encode(record: Record) -> bytes:
    """Encode `record` as bytes; `decode` is the inverse."""
    features: dict[str, Sequence[bytes] | Sequence[int]] = {IMAGE_KEYS[0]: [record.image]}
    if record.label is not None:
        features[LABEL_KEYS[0]] = [record.label]
    if record.captions:
        features[CAPTION_KEYS[0]] = [c.encode(errors="replace") for c in record.captions]
    if record.name:
        features[NAME_KEYS[0]] = [record.name.encode("utf-8", "surrogateescape")]
    return encode_features(features)


def decode(data: bytes, image_keys: Sequence[str] = IMAGE_KEYS) -> Record:
    """Decode image, label, captions and name, each from the first of its keys that `data` has.

    Raises:
      RecordError: not a `tf.train.Example`, or one without an image.
    """
    features = decode_features(data)
    image = _first(features, image_keys)
    if not isinstance(image, list) or not image:
        names = ", ".join(sorted(features)) or "nothing"
        raise RecordError(f"no image under {' or '.join(image_keys)}; it holds {names}")
    label, captions = _first(features, LABEL_KEYS), _first(features, CAPTION_KEYS)
    texts = captions if isinstance(captions, list) else []
    files = _first(features, NAME_KEYS)
    number, odd = _label(label)
    return Record(
        image[0],
        number,
        tuple(t.decode(errors="replace") for t in texts),
        files[0].decode("utf-8", "surrogateescape") if isinstance(files, list) and files else "",
        odd,
    )


def _label(values: Values | None) -> tuple[int | None, str]:
    """Return the class number, -1 for NaN, or None and a description of the invalid label."""
    if values is None or not len(values):
        return None, ""
    if isinstance(values, list):
        return None, "text"
    if values.size > 1:
        return None, f"{values.size} numbers"
    value = values[0].item()
    if value != value:
        return -1, ""
    whole = np.isfinite(value) and value == int(value)
    return (int(value), "") if whole else (None, f"{value:g}")


def encode_features(features: Mapping[str, Sequence[bytes] | Sequence[int] | np.ndarray]) -> bytes:
    """Encode lists of bytes, lists of integers and (n,) float32 as a `tf.train.Example`."""
    example = Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if isinstance(values, np.ndarray):
            feature.float_list.value.extend(values)
        elif values and isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return example.SerializeToString(deterministic=True)


def decode_features(data: bytes) -> dict[str, Values]:
    """Decode to name -> list of bytes, (n,) float32 or (n,) int64.

    Raises:
      RecordError: not a `tf.train.Example`.
    """
    example = Example()
    try:
        example.ParseFromString(data)
    except DecodeError as e:
        raise RecordError(f"not a tf.train.Example: {e}") from None
    return {name: _values(feature) for name, feature in example.features.feature.items()}


def _values(feature: Any) -> Values:
    kind = feature.WhichOneof("kind")
    if kind == "float_list":
        return np.array(feature.float_list.value, np.float32)
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    return list(feature.bytes_list.value)


def _first(features: Mapping[str, Values], keys: Sequence[str]) -> Values | None:
    return next((features[k] for k in keys if k in features), None)
