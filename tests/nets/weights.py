"""PyTorch state dictionaries of the golden files as parameter trees of our networks."""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.tree import map_with_name

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
    """The state dictionary of a golden file, and its other arrays."""
    with np.load(GOLDEN / f"{name}.npz") as data:
        arrays = dict(data)
    weights = {k.removeprefix("in_sd."): v for k, v in arrays.items() if k.startswith("in_sd.")}
    return weights, {k: v for k, v in arrays.items() if not k.startswith("in_sd.")}


def under(weights: Weights, prefix: str) -> Weights:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def linear(weights: Weights, name: str) -> dict:
    tree = {"kernel": weights[f"{name}.weight"].T}
    return tree | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})


def conv(weights: Weights, name: str) -> dict:
    tree = {"kernel": weights[f"{name}.weight"].transpose(2, 3, 1, 0)}
    return tree | ({"bias": weights[f"{name}.bias"]} if f"{name}.bias" in weights else {})


def norm(weights: Weights, name: str) -> dict:
    """Empty for a batch norm without scale and bias."""
    names = {"scale": "weight", "bias": "bias"}
    return {k: weights[f"{name}.{v}"] for k, v in names.items() if f"{name}.{v}" in weights}


def stats(weights: Weights, name: str) -> dict:
    return {"mean": weights[f"{name}.running_mean"], "var": weights[f"{name}.running_var"]}


def blocks(weights: Weights, prefix: str = "blocks.") -> dict:
    """All transformer blocks, stacked along a leading axis."""

    def one(name: str) -> dict:
        return {
            "norm1": norm(weights, f"{name}.norm1"),
            "norm2": norm(weights, f"{name}.norm2"),
            "attn": {k: linear(weights, f"{name}.attn.{k}") for k in ("qkv", "proj")},
            "mlp": {k: linear(weights, f"{name}.mlp.{k}") for k in ("fc1", "fc2")},
        }

    depth = len({k.split(".")[1] for k in weights if k.startswith(prefix)})
    return jax.tree.map(lambda *x: np.stack(x), *[one(f"{prefix}{i}") for i in range(depth)])


def vit(weights: Weights, fixed_positions: bool = False) -> dict:
    final = "norm" if "norm.weight" in weights else "fc_norm"
    tree = {
        "patch_embed": conv(weights, "patch_embed.proj"),
        "blocks": blocks(weights),
        "norm": norm(weights, final),
    }
    if "cls_token" in weights:
        tree["cls_token"] = weights["cls_token"]
    if not fixed_positions:
        tree["pos_embed"] = weights["pos_embed"]
    return tree


def resnet(weights: Weights, leaf=lambda w, c, n: {"conv": conv(w, c), "norm": norm(w, n)}) -> dict:
    """Parameters of a residual network, or with `leaf=resnet_stats` its running statistics."""
    tree = {"stem": {"0": leaf(weights, "conv1", "bn1")}}
    for name in sorted({".".join(k.split(".")[:2]) for k in weights if k.startswith("layer")}):
        stage, block = name.removeprefix("layer").split(".")
        count = len({k for k in weights if k.startswith(f"{name}.bn") and k.endswith("_mean")})
        layers = {
            str(i): leaf(weights, f"{name}.conv{i + 1}", f"{name}.bn{i + 1}") for i in range(count)
        }
        made = {"layers": layers}
        if f"{name}.downsample.1.running_mean" in weights:
            made["shortcut"] = leaf(weights, f"{name}.downsample.0", f"{name}.downsample.1")
        tree.setdefault(f"stage{stage}", {})[block] = made
    return tree


def resnet_stats(weights: Weights, conv_name: str, norm_name: str) -> dict:
    del conv_name
    return {"norm": stats(weights, norm_name)}


def random_variables(net) -> tuple:
    """Parameters and statistics of a net with all of them random, without its initialisation being
    compiled.
    """
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
    """Largest difference relative to the largest expected value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error <= rtol, f"{what}: relative error {error:.2e} > {rtol:.0e}"
