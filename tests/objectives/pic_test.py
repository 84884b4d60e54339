"""PIC: three training steps against the released code; recent negatives, decay of absent rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Window
from ssl_jax.objectives import pic
from ssl_jax.objectives.base import Spec, View
from ssl_jax.optim.factory import OptimConfig, make_optimizer
from tests.losses.forms import load
from tests.objectives import released
from tests.objectives.released import Tiny, hyper, images

NAMES = {
    "encoder.trunk.conv": "backbone/conv",
    "encoder.trunk.fc": "backbone/fc",
    "encoder.fc1": "projector/linear1",
    "encoder.fc2": "projector/linear2",
}
SPEC = Spec(4, 24, 0, steps_per_epoch=1, total_steps=3)
SMALL = {"views": (View(8, recipe="none"),), "projector": (6, 5), "window": 8, "stride": 4}


class ReleasedTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_three_steps(self, wide):
        data = load("pic_train3", wide)
        with jax.enable_x64(wide):
            self.check(data, wide)

    def check(self, data, wide):
        dtype, rtol = (np.float64, 1e-9) if wide else (np.float32, 1e-5)
        sizes = [data[f"in_{crops}"].shape for crops in ("large", "small")]
        batch, count = sizes[0][1], len(data["in_sd.sim_matrix"])

        def weights(prefix, step=None):
            rows = np.zeros((1024, data["in_sd.sim_matrix"].shape[1]), dtype)
            own = data[f"{prefix}sim_matrix"]
            rows[:count] = own if step is None else own[step]
            layers = released.weights(data, prefix, NAMES, step, dtype)
            return layers | {"memory": jnp.asarray(rows)}

        params = weights("in_sd.")
        heads = params["projector"].values()
        objective = pic.make(
            Tiny(*params["backbone"]["fc"]["kernel"].shape).net(),
            Spec(batch, count, 0, steps_per_epoch=1, total_steps=3),
            views=tuple(View(size[-1], count=size[2], recipe="none") for size in sizes),
            projector=tuple(layer["bias"].size for layer in heads),
            temperature=hyper(data, "T"),
            window=0,
        )
        extra = {"stats": {name: {} for name in objective.networks.nets}}
        batches = [
            {
                "views": tuple(
                    images(data[f"in_{c}"][s]).astype(dtype) for c in ("large", "small")
                ),
                "index": data["in_y"][s].astype(np.int32),
            }
            for s in range(len(data["in_y"]))
        ]
        steps = released.train(objective, data, params, extra, batches)
        for s, (loss, trained, _, state) in enumerate(steps):
            np.testing.assert_allclose(loss, data["out_loss"][s], rtol=rtol)
            expected = weights("out_sd.", s)
            released.check(trained, expected, 10 * rtol)
            shape = trained["memory"].shape
            (moment,) = (x for x in jax.tree.leaves(state) if x.shape == shape)
            released.check(moment[:count], data["out_sim_matrix_momentum"][s], 10 * rtol)


class ClassesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        draw = np.random.default_rng(0)
        self.images = jnp.asarray(draw.normal(size=(4, 1, 8, 8, 3)), jnp.float32)

    def loss(self, objective, params, extra, index, step=0):
        batch = {"views": (self.images,), "index": jnp.asarray(index, jnp.int32)}
        return objective.loss(params, extra, batch, jax.random.key(0), jnp.int32(step))

    def test_the_length_of_a_vector_does_not_matter(self):
        objective = pic.make(Tiny(dim=6).net(), SPEC, **SMALL)
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        run = jax.jit(
            jax.value_and_grad(
                lambda rows: self.loss(objective, params | {"memory": rows}, extra, [0, 1, 2, 3])[0]
            )
        )
        loss, grad = run(params["memory"])
        scaled, _ = run(params["memory"] * jnp.linspace(1, 3, 1024)[:, None])
        np.testing.assert_allclose(loss, scaled, rtol=1e-5)
        products = jnp.sum(grad * params["memory"], axis=1)
        np.testing.assert_allclose(products, 0, atol=1e-6)
        self.assertTrue((np.abs(grad[:24]).max(1) > 0).all())
        np.testing.assert_array_equal(grad[24:], 0)  # padding

    def test_recent_negatives(self):
        """Only the classes of the last two batches count."""
        objective = pic.make(Tiny(dim=6).net(), SPEC, **SMALL, recent=8)
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        everything = dataclasses.replace(objective, recent=0)
        run = jax.jit(lambda e, index, step: self.loss(objective, params, e, index, step))
        for step, (batch, present) in enumerate(
            [
                ([0, 1, 2, 3], range(4)),
                ([4, 5, 6, 7], range(8)),
                ([0, 9, 10, 11], (0, 4, 5, 6, 7, 9, 10, 11)),
            ]
        ):
            loss, aux = run(extra, jnp.asarray(batch), step)
            extra = aux.extra
            nets = everything.networks.bind(params, extra["stats"])
            z = nets.projector(nets.backbone(self.images[:, 0]).pooled)
            z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
            rows = params["memory"] / jnp.linalg.norm(params["memory"], axis=1, keepdims=True)
            scores = np.asarray(z @ rows.T / objective.temperature, np.float64)
            total = np.log(np.exp(scores[:, present]).sum(1))
            expected = np.mean(total - scores[np.arange(4), batch])
            np.testing.assert_allclose(loss, expected, rtol=1e-5)

    def test_rows_of_absent_images_move_as_the_correction_says(self):
        """Without a gradient (w, u) <- ((1 - lr decay, -lr momentum), (decay, momentum)) (w, u):
        the power of it that the paper applies when an image comes again.
        """
        lr, decay, momentum, absent = 0.1, 0.05, 0.9, 7
        config = OptimConfig(
            name="sgd",
            lr=lr,
            lr_scaling="none",
            schedule="constant",
            momentum=momentum,
            weight_decay=decay,
            decay_rules=((".*", 1.0),),
        )
        params = {"memory": jnp.asarray([[1.0, -2.0]])}
        tx, _ = make_optimizer(config, params, {}, batch_size=1, total_steps=9, steps_per_epoch=1)
        state, gradient = tx.init(params), jnp.asarray([[0.3, 0.4]])
        update = jax.jit(lambda g, s, p, step: tx.update(g, s, p, step=step))
        for step in range(1 + absent):
            grad = {"memory": gradient * (step == 0)}
            updates, state = update(grad, state, params, jnp.int32(step))
            params = jax.tree.map(jnp.add, params, updates)
        w, u = np.array([[1.0, -2.0]]), np.zeros((1, 2))
        u = momentum * u + np.asarray(gradient) + decay * w
        w = w - lr * u
        matrix = np.array([[1 - lr * decay, -lr * momentum], [decay, momentum]])
        w, u = np.tensordot(np.linalg.matrix_power(matrix, absent), np.stack([w, u]), 1)
        np.testing.assert_allclose(params["memory"], w, rtol=1e-5)

    def test_window(self):
        objective = pic.make(Tiny(dim=6).net(), SPEC, **SMALL)
        self.assertEqual(objective.inputs().window, Window(8, 4, True))
        self.assertIsNone(dataclasses.replace(objective, window=0).inputs().window)

    @parameterized.parameters(
        ({"window": 25}, r"window: expected 4 \(a batch\) to 24 .*, got 25"),
        ({"stride": 9}, "stride: 9 would leave images out; use at most the window, 8"),
        ({"recent": 3}, "recent: expected 4 .* to 24 .*, got 3"),
    )
    def test_bad_input(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            pic.make(Tiny(dim=6).net(), SPEC, **SMALL | options)


if __name__ == "__main__":
    absltest.main()
