"""Every method at toy size: its own `digits` recipe on a narrow net. Found by name, so that a new
method is tested too.
"""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import nets
from ssl_jax.augment.recipes import augment
from ssl_jax.core import rng
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs
from ssl_jax.objectives.base import Objective
from ssl_jax.run.configs import load_config, load_method, methods, override, recipes
from ssl_jax.run.experiment import Experiment

BATCH, STEPS = 16, 4
# A ResNet of one block: what more blocks of it do, tests/nets shows once for all methods.
RESNETS = ("resnet", "resnet_small")
ONE_BLOCK = {"name": "resnet", "depth": 4, "num_filters": 8, "zero_init_residual": False}


@cache
def experiment(method: str, **mesh: int) -> Experiment:
    """The small recipe of a method (a name, or a file with method and config), narrow, with a
    batch of 16, on the mesh given (default: one device).
    """
    config = load_config(f"{method}:{(recipes(method) or ['digits'])[0]}")
    config["backbone"] |= nets.backbone_class(config["backbone"]["name"]).narrow
    # Linear in the gradient: an optimizer that normalises makes much of the rounding of a zero.
    config["optim"] = {"name": "sgd", "lr": 0.01, "lr_scaling": "none", "warmup_steps": 1}
    sizes = {"data": 1, "fsdp": 1} | mesh
    override(
        config,
        [
            ("train.batch_size", BATCH),
            ("train.steps", STEPS),
            ("mesh.fsdp_min_size", 1),
            *((f"mesh.{axis}", size) for axis, size in sizes.items()),
        ],
    )
    config["backbone"] = _shallow(config)
    made = Experiment.from_config(config)
    # So short an epoch that what happens once an epoch happens twice.
    made.__dict__["spec"] = dataclasses.replace(made.spec, steps_per_epoch=STEPS // 2)
    return made


def _shallow(config: dict[str, Any]) -> dict[str, Any]:
    """Return the backbone with one block if it is a ResNet, unless the method needs more features
    than that has.
    """
    whole = config["backbone"]
    if whole["name"] not in RESNETS:
        return whole
    rest = {key: value for key, value in whole.items() if key != "width"}
    shallow = {"stem": "small"} | rest | ONE_BLOCK
    try:
        Experiment.from_config(config | {"backbone": shallow}).abstract_state  # noqa: B018 (raises)
    except UserError:
        return whole
    return shallow


def device_batch(made: Experiment, seed: int = 0, dtype: Any = np.float32) -> dict[str, Any]:
    """A batch as the step's augmentation hands it to the objective: random floats in place of
    images, placements and sound.
    """
    shapes = _shapes(made.objective.inputs(), made.spec.channels)
    return _drawn(shapes, np.random.default_rng(seed), dtype, made.spec.num_classes, made)


@cache
def _shapes(inputs: Inputs, channels: int) -> dict[str, Any]:
    host = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs.shapes(BATCH, channels)
    )
    return jax.eval_shape(partial(augment, inputs), host, jax.random.key(0))


def _drawn(
    shapes: dict[str, Any], draw: np.random.Generator, dtype: Any, classes: int, made: Experiment
) -> dict[str, Any]:
    """Draw a batch of `shapes`; the sub-batch of a stream has that stream's classes."""
    highest = {
        "label": classes,
        "labels": classes,
        "text": made.spec.vocabulary,
        "masks": 2,
        "frames": 256,
    }
    classes_of = {stream.name: stream.num_classes for stream in made.spec.streams}

    def array(name: str, like: Any) -> Any:
        if name == "index":
            return np.arange(BATCH, dtype=np.int32) * 7
        if name == "action":
            return draw.uniform(-1, 1, like.shape).astype(dtype)
        if name == "continues":
            return (draw.random(like.shape) < 0.9).astype(dtype)
        if name in highest:
            return draw.integers(0, highest[name], like.shape).astype(like.dtype)
        return draw.normal(size=like.shape).astype(dtype)

    return {
        name: _drawn(part, draw, dtype, classes_of[name], made)
        if isinstance(part, dict)
        else jax.tree.map(partial(array, name), part)
        for name, part in shapes.items()
    }


def observe(made: Experiment) -> Any:
    """(params, extra, batch, step) -> loss, gradients, and params and extra after a plain step of
    gradient descent. Pure.
    """
    objective = made.objective

    def run(params: Any, extra: Any, batch: Any, step: Any) -> Any:
        key = rng.step_key(jnp.uint32(0), step)
        loss_fn = lambda p: objective.loss(p, extra, batch, key, step)  # noqa: E731
        (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
        params, extra = objective.after_update(params, aux.extra, aux.signals, step)
        return {"loss": loss, "grads": grads, "params": params, "extra": extra}

    return run


def worst_difference(a: Any, b: Any, floor: float) -> tuple[float, str]:
    """Return the largest max|a - b| / max(max|a|, floor) over the leaves, and its leaf."""
    names = [
        jax.tree_util.keystr(p, simple=True, separator="/")
        for p, _ in jax.tree_util.tree_leaves_with_path(a)
    ]
    differences = []
    for name, x, y in zip(names, jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        differences.append(
            (
                float(np.max(np.abs(x - y), initial=0) / max(np.max(np.abs(x), initial=0), floor)),
                name,
            )
        )
    return max(differences)


def refreshes(method: str) -> bool:
    """Return whether the method refreshes from the whole data set."""
    return load_method(method).make.__self__.refresh_steps is not Objective.refresh_steps


# A method of the tests that asks for everything a batch may hold.
EVERY_INPUT = str(Path(__file__).parent / "every_input.py")
# The suffix of a test, its argument.
METHODS = [*((f"_{name}", name) for name in methods()), ("_every_input", EVERY_INPUT)]
REFRESHING = [(suffix, name) for suffix, name in METHODS if refreshes(name)]
