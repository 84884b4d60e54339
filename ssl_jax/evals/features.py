"""Frozen features of a data set, from an encoder or from its raw pixels."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.augment.recipes import prepare
from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.objectives.base import Encoder, Probe

Array = jax.Array


def read(encoder: Encoder, view: View, probe: Probe, images: Array) -> Array:
    """Features (B, D) float32 of uint8 images (B, H, W, C), at the stage and with the pooling of `probe`."""
    out = encoder.features(prepare(view, images))
    stages = [name for name in out if name.startswith(("stage", "block"))]
    if probe.pool == "cls":
        if "cls" not in out:
            raise UserError("probe: pool 'cls' needs a backbone with a class token")
        return out["cls"].astype(jnp.float32)
    return pool(out[stages[probe.stage]], probe.pool).astype(jnp.float32)


def pool(x: Array, how: str) -> Array:
    """A map (B, h, w, C) to (B, C) by "avg", or to (B, 4 C) by "grid": averages over a 2x2 grid.

    Raises:
      UserError: an unknown pooling.
    """
    if how == "avg":
        return x.mean((1, 2))
    if how == "grid":
        b, h, w, c = x.shape
        x = x[:, : max(h // 2 * 2, 1), : max(w // 2 * 2, 1)]
        if h < 2 or w < 2:
            return jnp.broadcast_to(x.mean((1, 2))[:, None], (b, 4, c)).reshape(b, -1)
        return x.reshape(b, 2, h // 2, 2, w // 2, c).mean((2, 4)).reshape(b, -1)
    raise UserError(f"probe: unknown pooling {how!r}; known: avg, cls, grid")


# The encoder is an argument, not a closure: one compile for every step's weights.
_read = jax.jit(read, static_argnums=(1, 2))


def extract(
    encoder: Encoder, view: View, probe: Probe, batches: Iterator[np.ndarray], mesh: jax.sharding.Mesh
) -> np.ndarray:
    """Features (N, D) float32 of all `batches` of uint8 images (B, H, W, C), each of one size.

    A last batch that is smaller is filled up with zeros, and the filling's features are dropped.
    """
    placed, size, rows = sharding.batch_sharding(mesh), 0, []
    for images in batches:
        count = len(images)
        size = size or count + -count % mesh.size
        filling = [(0, size - count)] + [(0, 0)] * (images.ndim - 1)
        features = _read(encoder, view, probe, jax.device_put(np.pad(images, filling), placed))
        rows.append(np.asarray(jax.device_get(features))[:count])
    return np.concatenate(rows)


def recompute_statistics(
    encoder: Encoder, view: View, batches: Iterator[np.ndarray], mesh: jax.sharding.Mesh
) -> Encoder:
    """The encoder with batch-norm statistics of the data, for a fair look at untrained weights.

    The statistics are a running average over `batches`; partial ones are passed over.
    """
    placed, stats, size = sharding.batch_sharding(mesh), encoder.stats, 0
    for images in batches:
        size = size or len(images) // mesh.size * mesh.size
        if len(images) >= size > 0:
            images = jax.device_put(images[:size], placed)
            stats = _train_statistics(encoder, stats, view, images)
    return Encoder(encoder.params, stats, encoder.net)


def _statistics(encoder: Encoder, stats: dict, view: View, images: Array) -> dict:
    return encoder.net.apply(encoder.params, stats, prepare(view, images), train=True)[1]


_train_statistics = jax.jit(_statistics, static_argnums=2)
