"""MoCo v1 and v2: three training steps against the released code; shuffled batch norm."""

import dataclasses
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import moco_v2
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.parts import queue
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from tests.objectives import harness
from tests.objectives.parts.queue_test import from_columns

GOLDEN = Path(__file__).parents[1] / "golden"
# The released MoCo's encoder was two linear layers: here the head, on images of one pixel.
PIXELS = Net(lambda key: ({}, {}), lambda p, s, x, **_: (Features(pooled=x[:, 0, 0]), s), "pixels")


def golden_setup(data, dtype):
    """Objective, optimizer, params and extra of the file's run."""
    _, batch, width = data["in_imq"].shape
    dim, size = data["in_queue"].shape
    spec = Spec(batch, size, 0, steps_per_epoch=1, total_steps=3, channels=width)
    objective = moco_v2.make(
        PIXELS,
        spec,
        view=View(1, count=2),
        projector=(width, dim),
        temperature=float(data["hp_T"]),
        momentum=float(data["hp_m"]),
        queue_size=size,
    )
    head = {
        f"linear{i + 1}": {"kernel": data[f"in_w{2 * i}"].T, "bias": data[f"in_b{2 * i}"]}
        for i in range(2)
    }
    params = {"backbone": {}, "projector": jax.tree.map(lambda x: jnp.asarray(x, dtype), head)}
    extra = jax.eval_shape(objective.init, jax.random.key(0))[1]
    extra = extra | {
        "key_encoder": params,
        "queue": {
            "keys": from_columns(data["in_queue"].astype(dtype), batch),
            "next": jnp.zeros((), jnp.int32),
        },
    }
    config = OptimConfig(
        name="sgd",
        lr=float(data["hp_lr"]),
        lr_scaling="none",
        schedule="constant",
        momentum=float(data["hp_sgd_momentum"]),
        weight_decay=float(data["hp_weight_decay"]),
        decay_rules=((".*", 1.0),),
    )
    tx, _ = make_optimizer(config, params, {}, batch_size=batch, total_steps=3, steps_per_epoch=1)
    return objective, tx, params, extra


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(False, True)
    def test_three_steps(self, wide):
        data = np.load(GOLDEN / "moco_v2_train3.npz")
        prefix, dtype, rtol = ("f64_", np.float64, 1e-7) if wide else ("", np.float32, 1e-5)
        with jax.enable_x64(wide):
            objective, tx, params, extra = golden_setup(data, dtype)

            @jax.jit
            def update(params, extra, state, images, step):
                batch = {"views": (images,), "index": jnp.arange(len(images))}
                loss = lambda p: objective.loss(p, extra, batch, jax.random.key(0), step)  # noqa: E731
                (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
                updates, state = tx.update(grads, state, params, step=step)
                params = optax.apply_updates(params, updates)
                params, after = objective.after_update(params, aux.extra, aux.signals, step)
                return value, params, after, state

            state = tx.init(params)
            for s in range(len(data["in_imq"])):
                views = np.stack([data["in_imq"][s], data["in_imk"][s]], axis=1)
                images = views[:, :, None, None].astype(dtype)
                used = extra["key_encoder"]  # the released code averages before the keys
                value, params, extra, state = update(params, extra, state, images, jnp.int32(s))
                np.testing.assert_allclose(value, data[f"{prefix}out_loss"][s], rtol=rtol)
                for name, tree in (("q", params), ("k", used)):
                    self.check_head(tree["projector"], data, prefix, name, s, rtol)
                expected = from_columns(data[f"{prefix}out_queue"][s], images.shape[0])
                np.testing.assert_allclose(extra["queue"]["keys"], expected, atol=rtol)
                place = int(extra["queue"]["next"]) * images.shape[0]
                self.assertEqual(place, int(data["out_ptr"][s]))

    def check_head(self, head, data, prefix, name, step, rtol):
        for i, layer in enumerate(("linear1", "linear2")):
            kernel, bias = (data[f"{prefix}out_{x}{2 * i}_{name}"][step] for x in "wb")
            np.testing.assert_allclose(head[layer]["kernel"], kernel.T, rtol=rtol, atol=rtol)
            np.testing.assert_allclose(head[layer]["bias"], bias, rtol=rtol, atol=rtol)


class GroupsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.made = harness.experiment("moco_v2")
        self.objective = dataclasses.replace(self.made.objective, bn_groups=4)
        self.batch = harness.device_batch(self.made)

    def keys(self, objective, extra, seed=0):
        """Keys of unit length of the toy batch, encoded in the order that `seed` draws."""
        example_keys = jax.random.split(jax.random.key(seed), harness.BATCH)
        images = self.batch["views"][0][:, 1]
        outputs, _ = jax.jit(objective.encode_keys)(extra, images, example_keys)
        return l2_normalize(outputs["projector"])

    def test_shuffled_keys_come_back_in_order_and_know_their_group(self):
        _, extra = jax.jit(self.objective.init)(jax.random.key(0))
        one, two = self.keys(self.objective, extra), self.keys(self.objective, extra, seed=1)
        whole = self.keys(self.made.objective, extra)
        self.assertGreater(float(jnp.abs(one - two).max()), 1e-3)  # other groups
        own, other = (jnp.mean(jnp.sum(one * x, 1)) for x in (whole, jnp.roll(whole, 1, 0)))
        self.assertLess(1 - float(own), (1 - float(other)) / 4)  # but the same images

    def test_without_batch_norm_the_order_does_not_matter(self):
        spec = dataclasses.replace(self.made.spec, channels=16 * 16)
        options = {"view": View(1, count=2), "projector": (8, 4), "queue_size": 64}
        images = self.batch["views"][0].reshape(harness.BATCH, 2, 1, 1, -1)
        self.batch = {"views": (images,)}
        grouped, whole = (moco_v2.make(PIXELS, spec, bn_groups=g, **options) for g in (4, 1))
        _, extra = jax.jit(whole.init)(jax.random.key(0))
        np.testing.assert_allclose(self.keys(grouped, extra), self.keys(whole, extra), atol=1e-5)

    def test_equal_on_one_and_eight_devices_which_share_the_work(self):
        """The shuffled images must not be copied to, and encoded on, every device."""
        run = harness.observe(types.SimpleNamespace(objective=self.objective))
        state = jax.jit(self.objective.init)(jax.random.key(3))
        outputs, flops = [], []
        for count in (1, 8):
            mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:count])
            placed = sharding.tree_shardings(state, sharding.MeshConfig(), mesh)
            rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
            step = jax.jit(run, in_shardings=(*placed, rows, whole))
            with jax.set_mesh(mesh):
                args = jax.device_get((*state, self.batch, np.int32(0)))
                compiled = step.lower(*args).compile()
                flops.append(compiled.cost_analysis()["flops"])
                outputs.append(jax.device_get(step(*args)))
        worst, where = harness.worst_difference(*outputs, 1e-3)
        self.assertLessEqual(worst, 1e-4, where)
        self.assertLess(8 * flops[1], 1.5 * flops[0])


class StateTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.made = harness.experiment("moco_v2")
        self.params, self.extra = jax.jit(self.made.objective.init)(jax.random.key(0))

    def test_momentum_one_freezes_the_keys(self):
        objective = dataclasses.replace(self.made.objective, momentum=1.0)
        moved = jax.tree.map(lambda x: x + 1, self.params)
        signals = {"keys": jnp.ones((harness.BATCH, 128))}
        _, after = objective.after_update(moved, self.extra, signals, jnp.int32(0))
        jax.tree.map(np.testing.assert_array_equal, after["key_encoder"], self.extra["key_encoder"])

    def test_a_fresh_model_scores_as_chance(self):
        """Random keys of 128 features are nearly orthogonal: the positive is one of K + 1."""
        size = queue.keys(self.extra["queue"]).shape[0]
        batch, step = harness.device_batch(self.made), jnp.int32(0)
        loss = jax.jit(self.made.objective.loss)
        value, _ = loss(self.params, self.extra, batch, jax.random.key(0), step)
        self.assertLess(abs(float(value) - np.log(size + 1)), 5)

    def test_a_queue_longer_than_the_data_is_an_error(self):
        objective = dataclasses.replace(self.made.objective, queue_size=65536)
        with self.assertRaisesRegex(UserError, "65536 keys of 1437 examples .* at most 1424"):
            jax.eval_shape(objective.init, jax.random.key(0))


if __name__ == "__main__":
    absltest.main()
