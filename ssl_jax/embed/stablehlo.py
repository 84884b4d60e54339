"""An encoder as one program with its weights inside, for processes that have JAX but not ssl_jax.

The file is a zip of `program.bin`, what `jax.export.deserialize` reads (StableHLO behind it), and
`card.json`, which says what goes in and comes out and what made the weights.
"""

import contextlib
import importlib.metadata
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
from ssl_jax.embed.encoder import Encoder, read

PROGRAM, CARD = "program.bin", "card.json"
PLATFORMS = ("cpu", "tpu", "cuda")


def stablehlo(
    encoder: Encoder,
    card: Mapping[str, Any] | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """The bytes of such a file: images (B, size, size, C) uint8, any B, to the features of
    `encoder(images)`, (B, D) float32. Cropping to that size is the caller's; `Encoder.crop` does it
    here.

        with zipfile.ZipFile("encoder.zip") as file:
            program = jax.export.deserialize(bytearray(file.read("program.bin")))
        features = program.call(images)

    JAX promises to read such a program for six months after the version that wrote it. The same
    encoder gives the same bytes.

    Args:
      card: what else is said of the encoder: measured results, licence.
      platforms: of "cpu", "tpu", "cuda", "rocm".

    Raises:
      UserError: an unknown platform, or more than the 2 GiB that the format holds.
    """
    known = (*PLATFORMS, "rocm")
    for platform in platforms:
        if platform not in known:
            raise UserError(f"unknown platform {platform!r}; known: {', '.join(known)}")
    held = jax.tree.map(jax.device_get, {"params": encoder.params, "stats": encoder.stats})
    if sum(leaf.nbytes for leaf in jax.tree.leaves(held)) >= 2**31 - 2**24:
        raise UserError("StableHLO programs hold less than 2 GiB of weights; use safetensors")
    own = Encoder.of(
        encoder, encoder.view, encoder.probe, encoder.channels, encoder.config, encoder.origin
    )
    shape = (*[encoder.view.size] * 2, encoder.channels)
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    with _without_places():
        # A closure, for once: the weights are to be baked in.
        program = export.export(jax.jit(lambda x: read(own, x)), platforms=platforms)(images)
    about = {
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
        "versions": {name: importlib.metadata.version(name) for name in ("ssl-jax", "jax")},
        "use": f"jax.export.deserialize(bytearray(zip.read({PROGRAM!r}))).call(images)",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        # ZipInfo's own time: that of 1980.
        file.writestr(zipfile.ZipInfo(CARD), json.dumps(about | dict(card or {}), indent=1))
        file.writestr(zipfile.ZipInfo(PROGRAM), bytes(program.serialize()))
    return packed.getvalue()


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Programs that are made inside do not say in which files and lines; else they would name this
    machine's folders, and differ with the caller.
    """
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)
