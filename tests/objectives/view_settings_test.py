"""Every setting of a view or chain of augmentations of every method changes what the method sees,
or is refused.

The pipeline applies the views in `inputs()`; the chains that a method applies itself, to pieces,
patches or frames, are compared in the traced loss, which costs no compilation.
"""

import dataclasses
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax import nets
from ssl_jax.augment.recipes import augment, own_chains, recipe
from ssl_jax.core.chain import Affine, Background, Transform
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.run.configs import load_config, override, recipes
from ssl_jax.run.experiment import Experiment
from tests.objectives import harness

CHAIN = {  # another value of every field
    "flip": 0.125,
    "affine": {"rotation": 0.111},
    "jitter": (0.11, 0.12, 0.13, 0.14),
    "jitter_p": 0.375,
    "jitter_kind": "byol",
    "gray_p": 0.625,
    "blur_p": 0.375,
    "solarize_p": 0.375,
    "gray_first": True,
    "noise": 0.0625,
    "rand_augment": 7.0,
    "space": "ycbcr",
    "mean": (0.375, 0.25, 0.5),
    "std": (0.625, 0.5, 0.75),
    "background": {"probability": 0.75},
}
VIEW = {
    "size": 24,
    "area": (0.31, 0.71),
    "strength": 0.4375,
    "interpolation": "bicubic",
    "crop": "one_draw",
}


def experiment(method, keys=()):
    """The small recipe of a method with a narrow network and the settings `keys`, checked as
    `ssl-jax train` checks them.
    """
    config = load_config(f"{method}:{(recipes(method) or ['digits'])[0]}")
    config["backbone"] |= nets.backbone_class(config["backbone"]["name"]).narrow
    override(config, [("train.batch_size", harness.BATCH), ("train.steps", 4), *dict(keys).items()])
    made = Experiment.from_config(config)
    made.check_used(dict(keys))
    return made


def traced(made):
    """The program of the loss, with its constants, as a text."""
    objective = made.objective
    inputs = objective.inputs()
    host = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        inputs.shapes(harness.BATCH, made.spec.channels),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = jax.eval_shape(partial(augment, inputs), host, key)
    params, extra = jax.eval_shape(objective.init, key)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return listing(lambda *args: objective.loss(*args)[0], params, extra, batch, key, step)


def listing(function, *args):
    """The program of a function as a text, and its constants."""
    closed = jax.make_jaxpr(function)(*args)
    return str(closed.jaxpr), tuple(np.asarray(c).tobytes() for c in closed.consts)


def views_of(made):
    """The keys of the views among the fields of a method."""
    for field in dataclasses.fields(made.method):
        value = getattr(made.method, field.name)
        if isinstance(value, View):
            yield f"objective.{field.name}", value
        elif isinstance(value, tuple):
            for i, part in enumerate(value):
                if isinstance(part, View):
                    yield f"objective.{field.name}.{i}", part


def own_settings(made):
    """Another value of each setting of the views and chains that a method applies itself:
    (key, value) pairs.
    """
    inputs = made.method.inputs()
    applied = {key for key, _ in own_chains(made.method, inputs)}
    for key, view in views_of(made):
        if view not in inputs.views or inputs.frames:
            host = view in inputs.views  # it cuts the frames of clips, the method changes them
            names = ["strength"] if host else VIEW
            yield from ((f"{key}.{name}", VIEW[name]) for name in names)
            applied.add(f"{key}.recipe")
    for key in sorted(applied):
        yield from ((f"{key}.{name}", value) for name, value in CHAIN.items())


class ViewSettingsTest(parameterized.TestCase):
    def test_the_values_above_are_of_every_field(self):
        self.assertEqual(set(CHAIN), {f.name for f in dataclasses.fields(Transform)})
        self.assertEqual({*VIEW, "count", "recipe"}, {f.name for f in dataclasses.fields(View)})

    @parameterized.named_parameters(*harness.METHODS)
    def test_a_further_crop_is_used_or_refused(self, method):
        """Used: the loss changes with every crop."""
        for key, view in views_of(experiment(method)):
            try:
                made = experiment(method, {f"{key}.count": view.count + 1})
                objective = made.objective
            except UserError as e:
                self.assertIn(key.split(".")[1], str(e))
                continue
            params, extra = objective.init(jax.random.key(0))
            batch = harness.device_batch(made)

            @jax.jit
            def loss(views, objective=objective, params=params, extra=extra, batch=batch):
                whole = dict(batch, views=views)
                return objective.loss(params, extra, whole, jax.random.key(1), jnp.int32(0))[0]

            before = float(loss(batch["views"]))
            for group, crops in enumerate(batch["views"]):
                for i in range(crops.shape[1]):
                    changed = np.array(crops)
                    changed[:, i] = changed[::-1, i] * 1.5 + 0.3
                    views = (*batch["views"][:group], changed, *batch["views"][group + 1 :])
                    self.assertNotEqual(float(loss(views)), before, f"{key}: crop {group}, {i}")

    @parameterized.named_parameters(*harness.METHODS)
    @pytest.mark.full
    def test_a_chain_of_its_own(self, method):
        usual = experiment(method)
        settings = list(own_settings(usual))
        before = traced(usual) if settings else None
        for key, value in settings:
            with self.subTest(key):
                try:
                    after = traced(experiment(method, {key: value}))
                except UserError:
                    continue
                self.assertFalse(after == before)  # without printing the programs

    @parameterized.named_parameters(*harness.METHODS)
    def test_backgrounds_where_there_are_no_masks(self, method):
        usual = experiment(method)
        for key, _ in own_chains(usual.method, usual.method.inputs()):
            with self.assertRaisesRegex(UserError, f"{key}.background: .*without masks"):
                _ = experiment(method, {f"{key}.background.fill": "gray"}).method


def changed(chain, name):
    value = CHAIN[name]
    nested = {"affine": Affine, "background": Background}
    value = nested[name](**value) if name in nested else value
    return dataclasses.replace(chain, **{name: value})


class PipelineTest(parameterized.TestCase):
    """The views in `inputs()`, which the pipeline makes for every method."""

    @parameterized.parameters(*VIEW, "count")
    def test_view(self, name):
        view = View(16, count=2, area=(0.7, 1.0), recipe="moco_v2")
        other = dataclasses.replace(view, **{name: (VIEW | {"count": 3})[name]})
        if name == "strength":
            devices = (
                listing(partial(self.device, each), jax.random.key(0)) for each in (view, other)
            )
            self.assertLen(set(devices), 2)
            return
        host = [self.host(each, cache) for each in (view, other) for cache in ("none", "device")]
        first, cached, second, other_cached = host
        for a, b in ((first, second), (cached, other_cached)):
            self.assertFalse(a.shape == b.shape and (a == b).all())

    def host(self, view, cache):
        """The crops of a batch, made by the host or on the devices."""
        config = load_config("simclr:digits")
        override(config, [("train.batch_size", 8), ("train.steps", 1), ("data.cache", cache)])
        made = Experiment.from_config(config)
        made.__dict__["objective"] = SimpleNamespace(inputs=lambda: Inputs((view,)))
        _, batches = made.training_batches(0, 1)
        return np.asarray(next(iter(batches))["views"][0])

    def device(self, view, key):
        shape = (2, view.count, *view.sides, 3)
        batch = {"views": (jnp.zeros(shape, jnp.uint8),), "index": jnp.arange(2)}
        return augment(Inputs((view,)), batch, key)["views"][0]

    @parameterized.parameters(*CHAIN)
    def test_chain(self, name):
        chain = recipe("moco_v2")
        if name == "gray_first":
            chain = dataclasses.replace(chain, gray_p=0.2)
        self.assertFalse(self.program(chain) == self.program(changed(chain, name)))

    def program(self, chain):
        inputs = Inputs((View(16, recipe=chain),), masks=not chain.rand_augment)
        shape = (2, 1, 16, 16, 3)
        batch = {"views": (jnp.zeros(shape, jnp.uint8),), "index": jnp.arange(2)}
        batch |= {"masks": (jnp.zeros(shape[:-1], jnp.uint8),)} if inputs.masks else {}
        return listing(lambda key: augment(inputs, batch, key)["views"], jax.random.key(0))


if __name__ == "__main__":
    absltest.main()
