"""PyTorch state dictionaries of the golden files as parameter trees of our networks."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.tree import map_with_name
from ssl_jax.nets import decoders
from ssl_jax.nets.backbones import vit
from ssl_jax.nets.positions import sincos
from ssl_jax.weights import conversion, releases
from ssl_jax.weights.places import under

GOLDEN = Path(__file__).parents[1] / "golden"
Weights = Mapping[str, np.ndarray]

# Compiling is most of these tests' time, and half of it is optimisation that tiny nets do not need.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def load(name: str) -> tuple[Weights, dict[str, np.ndarray]]:
    """Load the state dictionary of a golden file, and its other arrays."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        arrays = dict(data)
    weights = {k.removeprefix("in_sd."): v for k, v in arrays.items() if k.startswith("in_sd.")}
    return weights, {k: v for k, v in arrays.items() if not k.startswith("in_sd.")}


def convert(net, weights: Weights, **backbone) -> tuple[dict, dict]:
    """Return (params, stats) of a network from the state dictionary of its PyTorch counterpart.

    Every tensor of the backbone must be used, and every variable be present; `backbone` as in
    `conversion.convert`.
    """
    (release,) = releases.find(weights)
    like = jax.eval_shape(net.init, jax.random.key(0))
    variables, report = conversion.convert(release, like, backbone)
    assert not report.complaint() and not report.skipped, report
    return conversion.fill(under(variables, "backbone/"), like, "golden")


def head(weights: Weights, name: str) -> dict:
    """Return the variables of a head of the network, nested."""
    (release,) = releases.find(weights)
    return nested(release.heads[name])


def nested(variables: Weights) -> dict:
    """Nest {"a/b": x} to {"a": {"b": x}}."""
    tree: dict = {}
    for path, array in variables.items():
        *outer, last = path.split("/")
        at = tree
        for part in outer:
            at = at.setdefault(part, {})
        at[last] = np.asarray(array)
    return tree


@contextlib.contextmanager
def float32_positions() -> Iterator[None]:
    """Round fixed positions to float32, as the releases do also in their runs in float64."""

    def rounded(*args, **options) -> np.ndarray:
        return np.float64(np.float32(sincos(*args, **options)))

    with mock.patch.object(vit, "sincos", rounded), mock.patch.object(decoders, "sincos", rounded):
        yield


def random_variables(net) -> tuple:
    """Draw random parameters and statistics of a net, without compiling its initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0)))

    def draw(name: str, like: jax.ShapeDtypeStruct) -> jax.Array:
        around_one = name.endswith(("scale", "var"))
        values = rng.uniform(0.5, 1.5, like.shape) if around_one else rng.normal(0, 0.2, like.shape)
        return jnp.asarray(values, like.dtype)

    return map_with_name(draw, shapes)


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def assert_close(actual, expected, rtol: float, what: str = "") -> None:
    """Compare the largest difference, relative to the largest expected value, with `rtol`."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= rtol, f"{what}: relative error {error:.2e} > {rtol:.0e}"
