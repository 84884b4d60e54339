"""Export of an encoder as an ONNX program, by the package jax2onnx, an extra.

jax2onnx reads the primitives of a traced program. It would replace flax's layers by its own while
it traces, and cannot for some of ours, so it gets a program that is traced already.
"""

import importlib
import json
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.extend.core import jaxpr_as_fun

from ssl_jax.core.errors import UserError
from ssl_jax.core.versions import versions
from ssl_jax.embeddings.encoder import ImageEncoder, read

INPUT, OUTPUT = "images", "features"
LARGEST = 2**31 - 2**24  # bytes of weights: a protobuf holds less than 2 GiB


def onnx(encoder: ImageEncoder, card: Mapping[str, Any] | None = None) -> bytes:
    """Return the bytes of an ONNX file: a program from `images` (B, size, size, C) uint8, any B, to
    `features` (B, D) float32, those of `encoder(images)`. The caller crops images to that size, as
    `ImageEncoder.crop` does; the rest of the preprocessing is inside.

        session = onnxruntime.InferenceSession("encoder.onnx")
        (features,) = session.run(None, {"images": images})

    Args:
      card: further entries of the file's metadata: measured results, licence.

    Raises:
      UserError: jax2onnx is not installed or has no translation of a part of the network, or more
        weights than an ONNX file holds.
    """
    check()
    if sum(leaf.nbytes for leaf in jax.tree.leaves((encoder.params, encoder.stats))) >= LARGEST:
        raise UserError("an ONNX file holds less than 2 GiB of weights; use --format=safetensors")
    (batch,) = export.symbolic_shape("B")
    shape = (*encoder.view.sides, encoder.channels)
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    program = jax.make_jaxpr(lambda x: read(encoder.bare, x))(images)
    try:
        model = _translated(program, images)
    except Exception as e:  # each of its plugins raises its own
        line = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
        raise UserError(f"jax2onnx cannot translate this network: {line}") from None
    entries = {
        "preprocessing": "central square, resized to the input's size; normalised inside",
        "origin": encoder.origin,
        "weights": encoder.digest(),
        "versions": json.dumps(versions("ssl-jax", "jax", "jax2onnx")),
        **{key: json.dumps(value) for key, value in (card or {}).items()},
    }
    for key, value in entries.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(model.SerializeToString())


def check() -> None:
    """Check that jax2onnx is installed.

    Raises:
      UserError: it is not.
    """
    _package()


def _package() -> Any:
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # it logs each plugin that it cannot import
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("jax2onnx")
    except ImportError:
        raise UserError(
            "--format=onnx needs jax2onnx; run pip install -e '.[onnx]' in your clone of ssl_jax"
        ) from None
    finally:
        logging.disable(level)


def _translated(program: Any, images: jax.ShapeDtypeStruct) -> Any:
    """Return the ONNX model of a traced program of one input and one output."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return _package().to_onnx(
            lambda x: jaxpr_as_fun(program)(x)[0],
            inputs=[images],
            model_name="ssl_jax",
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
    finally:
        logging.disable(level)
