"""Golden tests in every form of the similarities, for any number of rows."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core import sharding
from ssl_jax.losses.large_batch import tiles

GOLDEN = Path(__file__).parents[1] / "golden"
FORMS = ("dense", "tiled", "ring")


def mesh_for(*rows):
    """Enter a mesh of as many of the eight devices as divide all of `rows`."""
    count = max(k for k in range(1, 9) if all(n % k == 0 for n in rows))
    return jax.set_mesh(sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:count]))


def load(name: str, wide: bool) -> dict[str, np.ndarray]:
    """Load a fixture; with `wide`, inputs in float64 and the outputs computed in float64."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        data = {key: file[key] for key in file.files}
    if wide:
        data |= {k.removeprefix("f64_"): v for k, v in data.items() if k.startswith("f64_")}
        data |= {k: v.astype(np.float64) for k, v in data.items() if k.startswith("in_")}
    return data


def interleave(z1, z2):
    """Return the rows of two views, rows 2i and 2i + 1 of example i."""
    return np.stack([z1, z2], axis=1).reshape(-1, z1.shape[-1])


def value_and_grad(
    loss: Callable[..., Any], first: Any, *others: Any, similarity: str = "dense"
) -> tuple[Any, Any]:
    """Compute the loss and its gradient to `first` in small tiles, on a mesh unless dense."""
    on = contextlib.nullcontext() if similarity == "dense" else mesh_for(len(first))
    with on, mock.patch.object(tiles, "TILE", 5):
        run = jax.jit(jax.value_and_grad(lambda *args: loss(*args, similarity=similarity)))
        return jax.device_get(run(first, *others))


def check_golden(
    loss: Callable[..., Any],
    args: tuple[Any, ...],
    similarity: str,
    wide: bool,
    value: Any,
    gradient: Any,
    rounded: tuple[float, float] = (1e-5, 1e-4),
) -> None:
    """Compare value and gradient with a fixture's: to 1e-9 in float64, else within `rounded`."""
    dtype = np.float64 if wide else np.float32
    with jax.enable_x64(wide):
        args = tuple(jnp.asarray(x, dtype) for x in args)
        actual, slope = value_and_grad(loss, *args, similarity=similarity)
    assert actual.dtype == slope.dtype == dtype
    rtol, atol = (1e-9, 1e-9) if wide else rounded
    np.testing.assert_allclose(actual, value, rtol=rtol)
    np.testing.assert_allclose(slope, gradient, rtol=0, atol=atol * np.abs(gradient).max())
