"""CMC: three training steps against the released code; its memories, views and messages."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.objectives import cmc
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts import memory
from tests.losses.forms import load
from tests.objectives import released
from tests.objectives.released import Tiny, hyper, images

NAMES = {
    "l.conv": "backbone/part1/conv",
    "ab.conv": "backbone/part2/conv",
    "l.fc": "projector1/linear1",
    "ab.fc": "projector2/linear1",
}
SPEC = Spec(5, 30, 0, steps_per_epoch=1, total_steps=3)
VIEW = View(6, area=(1.0, 1.0), recipe="cmc")


def make(spec=SPEC, **options):
    options = {"view": VIEW, "projector": (8,), "negatives": 9} | options
    return cmc.make(Tiny().net(spec.channels), spec, **options)


class Injected(cmc.CMC):
    """CMC with the rows of the fixture, which come with the batch, in place of draws."""

    def loss(self, params, extra, batch, key, step):
        with mock.patch.object(memory, "candidates", lambda *_: batch["rows"]):
            return super().loss(params, extra, batch, key, step)


class ReleasedTest(parameterized.TestCase):
    @parameterized.parameters(
        ("cmc_train3", True), ("cmc_train3", False), ("cmc_softmax_train3", True)
    )
    def test_three_steps(self, name, wide):
        data = load(name, wide)
        with jax.enable_x64(wide):
            self.check(data, "softmax" if "softmax" in name else "nce", wide)

    def check(self, data, criterion, wide):
        dtype, rtol = (np.float64, 1e-9) if wide else (np.float32, 1e-5)
        _, batch, _, _, side = data["in_x"].shape
        count, dim = data["in_memory_l"].shape
        spec = Spec(batch, count, 0, steps_per_epoch=1, total_steps=3)
        filters = data["in_sd.l.conv.bias"].size
        objective = Injected.make(
            Tiny(filters).net(3),
            spec,
            view=View(side, area=(1.0, 1.0), recipe="cmc"),
            projector=(dim,),
            criterion=criterion,
            negatives=int(data["hp_K"]),
            temperature=hyper(data, "T"),
            momentum=hyper(data, "momentum"),
        )
        banks = {"view1": data["in_memory_l"], "view2": data["in_memory_ab"]}
        extra = {
            "stats": {name: {} for name in objective.networks.nets},
            "memory": {k: jnp.asarray(v, dtype) for k, v in banks.items()},
            "partition": jnp.zeros((2,), dtype),
        }
        batches = [
            {
                "views": (images(data["in_x"][s]).astype(dtype),),
                "index": data["in_y"][s].astype(np.int32),
                "rows": data["in_idx"][s].astype(np.int32),
            }
            for s in range(len(data["in_x"]))
        ]
        start = released.weights(data, "in_sd.", NAMES, dtype=dtype)
        steps = released.train(objective, data, start, extra, batches)
        for s, (loss, params, extra, _) in enumerate(steps):
            np.testing.assert_allclose(loss, data["out_loss"][s], rtol=rtol)
            expected = released.weights(data, "out_sd.", NAMES, s, dtype)
            released.check(params, expected, 10 * rtol)
            for view, theirs in (("view1", "l"), ("view2", "ab")):
                bank = data[f"out_memory_{theirs}"][s]
                np.testing.assert_allclose(extra["memory"][view], bank, atol=rtol)
            if criterion == "nce":
                np.testing.assert_allclose(extra["partition"], data["out_Z"][s], rtol=rtol)

    @parameterized.parameters("nce", "softmax")
    def test_losses_and_gradients_of_two_steps(self, criterion):
        data = load("cmc", wide=False)
        count, dim = data["in_memory_l"].shape
        objective = make(
            dataclasses.replace(SPEC, num_examples=count),
            projector=(dim,),
            criterion=criterion,
            negatives=data["in_idx"].shape[-1] - 1,
            temperature=hyper(data, "T"),
            momentum=hyper(data, "momentum"),
        )
        run = jax.jit(jax.value_and_grad(objective.contrast, has_aux=True))
        for own, other in (("l", "ab"), ("ab", "l")):
            bank, constant = jnp.asarray(data[f"in_memory_{other}"]), jnp.zeros(())
            for s in range(len(data["in_y"])):
                index, rows = data["in_y"][s], data["in_idx"][s]
                (loss, constant), grad = run(data[f"in_{own}"][s], bank, index, rows, constant)
                expected = data[f"out_{criterion}_loss_{own}"][s]
                np.testing.assert_allclose(loss, expected, rtol=1e-5)
                released.check(grad, data[f"grad_{criterion}_{own}"][s], 1e-4)
                bank = memory.average(bank, index, data[f"in_{other}"][s], objective.momentum)
                np.testing.assert_allclose(bank, data[f"out_{criterion}_mem_{other}"][s], atol=1e-6)


class ViewsTest(parameterized.TestCase):
    def test_pairs(self):
        full = make(channels=(1, 1, 1))
        core = make(channels=(1, 1, 1), graph="core")
        self.assertLen(full.pairs, 6)
        self.assertEqual(core.pairs, [(0, 1), (0, 2), (1, 0), (2, 0)])
        self.assertEqual(make().pairs, [(0, 1), (1, 0)])

    @parameterized.parameters("full", "core")
    def test_three_views_learn(self, graph):
        objective = make(channels=(1, 1, 1), graph=graph)
        params, extra = objective.init(jax.random.key(0))
        draw = np.random.default_rng(0).normal(size=(5, 1, 6, 6, 3)).astype(np.float32)
        batch = {"views": (jnp.asarray(draw),), "index": jnp.arange(5, dtype=jnp.int32)}
        grads, aux = jax.jit(
            jax.grad(lambda p: objective.loss(p, extra, batch, jax.random.key(1), 0), has_aux=True)
        )(params)
        for leaf in jax.tree.leaves(grads):
            self.assertGreater(float(jnp.abs(leaf).max()), 0)
        _, after = objective.after_update(params, aux.extra, aux.signals, jnp.int32(0))
        for view, bank in after["memory"].items():
            before = extra["memory"][view]
            np.testing.assert_allclose(jnp.linalg.norm(bank[:5], axis=1), 1, rtol=1e-5)
            np.testing.assert_array_equal(bank[5:], before[5:])

    def test_swapped_views(self):
        """Each view looks for its image in the other's memory: with the views' channels, networks
        and memories exchanged, the loss is the same and the new memories are exchanged.
        """
        objective = make(dataclasses.replace(SPEC, channels=2), channels=(1, 1))
        params, extra = objective.init(jax.random.key(0))
        draw = np.random.default_rng(0).normal(size=(5, 1, 6, 6, 2)).astype(np.float32)

        @jax.jit
        def run(params, banks, images):
            before = dict(extra, memory=banks)
            batch = {"views": (images,), "index": jnp.arange(5, dtype=jnp.int32)}
            loss, aux = objective.loss(params, before, batch, jax.random.key(1), jnp.int32(0))
            after = objective.after_update(params, aux.extra, aux.signals, jnp.int32(0))[1]
            return loss, after["memory"]

        exchange = lambda x, name: {f"{name}1": x[f"{name}2"], f"{name}2": x[f"{name}1"]}  # noqa: E731
        other = exchange(params, "projector")
        other["backbone"] = exchange(params["backbone"], "part")
        loss, banks = run(params, extra["memory"], draw)
        same, exchanged = run(other, exchange(extra["memory"], "view"), draw[..., ::-1])
        wrong, _ = run(params, exchange(extra["memory"], "view"), draw)
        np.testing.assert_allclose(loss, same, rtol=1e-6)
        self.assertNotAlmostEqual(float(loss), float(wrong), 2)
        jax.tree.map(np.testing.assert_array_equal, exchange(banks, "view"), exchanged)

    @parameterized.parameters(
        ({}, {"channels": 1}, "need images of 3, and the data have 1; use colour images"),
        ({"channels": (3,)}, {}, "objective.channels: expected two views or more"),
        ({"negatives": 31}, {}, "cannot draw 31 of 30 examples; set at most 30, or 0"),
        ({"view": View(6, count=2, recipe="cmc")}, {}, "view.count: expected 1, got 2"),
    )
    def test_bad_input(self, options, spec, message):
        with self.assertRaisesRegex(UserError, message):
            make(dataclasses.replace(SPEC, **spec), **options)


if __name__ == "__main__":
    absltest.main()
