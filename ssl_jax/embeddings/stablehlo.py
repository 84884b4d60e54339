"""Export of an encoder as one program that includes its weights, for use with JAX but without
ssl_jax.

The file is a zip of `program.bin`, the format of `jax.export.deserialize` (which wraps StableHLO),
and `card.json`, which describes the inputs, the outputs and the origin of the weights.
"""

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from ssl_jax.augment.recipes import title
from ssl_jax.core.errors import UserError
from ssl_jax.core.versions import versions
from ssl_jax.embeddings.encoder import ImageEncoder, read

PROGRAM, CARD = "program.bin", "card.json"
PLATFORMS = ("cpu", "tpu", "cuda")


def stablehlo(
    encoder: ImageEncoder,
    card: Mapping[str, Any] | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Return the bytes of such a file: a program from images (B, size, size, C) uint8, any B, to
    the features `encoder(images)` (B, D) float32. The caller crops images to that size, as
    `ImageEncoder.crop` does.

        with zipfile.ZipFile("encoder.zip") as file:
            program = jax.export.deserialize(bytearray(file.read("program.bin")))
        features = program.call(images)

    JAX guarantees to read such a program for six months after the version that wrote it. The same
    encoder gives the same bytes.

    Args:
      card: further entries of `card.json`: measured results, licence.
      platforms: any of "cpu", "tpu", "cuda", "rocm".

    Raises:
      UserError: an unknown platform, or more weights than the 2 GiB that the format can hold.
    """
    supported = (*PLATFORMS, "rocm")
    for platform in platforms:
        if platform not in supported:
            raise UserError(f"unknown platform {platform!r}; expected {', '.join(supported)}")
    weights = jax.tree.map(jax.device_get, {"params": encoder.params, "stats": encoder.stats})
    if sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) >= 2**31 - 2**24:
        raise UserError(
            "a StableHLO program holds less than 2 GiB of weights; use --format=safetensors"
        )
    own = ImageEncoder.of(
        encoder, encoder.view, encoder.probe, encoder.channels, encoder.config, encoder.origin
    )
    shape = (*encoder.view.sides, encoder.channels)
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    with _without_places():
        # A closure, for once, to bake the weights in.
        program = export.export(jax.jit(lambda x: read(own, x)), platforms=platforms)(images)
    entries = {
        "input": {"images": ["batch", *shape], "dtype": "uint8", "colours": "RGB, 0 to 255"},
        "output": {"features": ["batch", *encoder.feature_shape], "dtype": "float32"},
        "preprocessing": {
            "outside": f"central square, resized to {encoder.view.size}; see crop below",
            "crop": "side = 0.875 of the shorter side, or all of it where that is <= the size",
            "inside": f"division by 255 and the normalisation of {title(encoder.view.recipe)}",
        },
        "layer": encoder.layers[encoder.probe.stage],
        "pool": encoder.probe.pool,
        "origin": encoder.origin,
        "weights": encoder.digest(),
        "config": encoder.config,
        "platforms": list(platforms),
        "versions": versions("ssl-jax", "jax"),
        "use": f"jax.export.deserialize(bytearray(zip.read({PROGRAM!r}))).call(images)",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        # ZipInfo's default time stamp is constant: 1980.
        file.writestr(zipfile.ZipInfo(CARD), json.dumps(entries | dict(card or {}), indent=1))
        file.writestr(zipfile.ZipInfo(PROGRAM), bytes(program.serialize()))
    return packed.getvalue()


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keep source locations out of the programs made inside the context; else they would contain
    this machine's paths, and depend on the caller.
    """
    limit = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
