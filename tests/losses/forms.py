"""Meshes for golden tests in every form of the similarities, for any number of rows."""

import jax

from ssl_jax.core import sharding

FORMS = ("dense", "tiled", "ring")


def mesh_for(*rows):
    """Enter a mesh of as many of the eight devices as divide all of `rows`."""
    count = max(k for k in range(1, 9) if all(n % k == 0 for n in rows))
    return jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:count]))
