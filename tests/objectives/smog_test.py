"""SMoG: three training steps against lightly, new groups by k-means, and bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.objectives import smog
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import harness, released

NAMES = {
    "enc.conv": "backbone/conv",
    "enc.fc": "backbone/fc",
    "proj.layers.0": "projector/linear1",
    "proj.layers.1": "projector/norm1",
    "proj.layers.3": "projector/linear2",
    "pred.layers.0": "predictor/linear1",
    "pred.layers.1": "predictor/norm1",
    "pred.layers.3": "predictor/linear2",
}
AVERAGED = {
    "enc_m.conv": "backbone/conv",
    "enc_m.fc": "backbone/fc",
    "proj_m.layers.0": "projector/linear1",
    "proj_m.layers.1": "projector/norm1",
    "proj_m.layers.3": "projector/linear2",
}


class SMoGTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_three_steps(self, wide):
        data = load("smog_lightly_train3", wide)
        with jax.enable_x64(wide):
            params = released.weights(data, "in_sd.", NAMES)
            batch, (clusters, width) = data["in_x0"].shape[1], data["in_groups"].shape
            hidden = data["in_sd.proj.layers.0.weight"].shape[0]
            objective = smog.make(
                released.tiny(params["backbone"]),
                Spec(batch, 100, 0, steps_per_epoch=1, total_steps=3),
                views=(View(data["in_x0"].shape[-1]),) * 2,
                projector=(hidden, width),
                predictor=(hidden, width),
                clusters=clusters,
                temperature=released.hyper(data, "T"),
                group_momentum=released.hyper(data, "beta"),
                momentum=released.hyper(data, "m"),
                queue_size=batch,
            )
            dtype = np.float64 if wide else np.float32
            wider = lambda x: x.astype(dtype) if x.dtype == np.float32 else x  # noqa: E731
            extra = jax.tree.map(wider, objective.init(jax.random.key(0))[1])
            teacher = {name: params[name] for name in ("backbone", "projector")}
            extra = extra | {"groups": jnp.asarray(data["in_groups"]), "teacher": teacher}
            tx = released.sgd(data, params, batch)
            state, run = tx.init(params), released.train_step(objective, tx)
            rtol = 1e-7 if wide else 1e-5
            for s, loss in enumerate(data["out_loss"]):
                views = released.images(data["in_x0"][s], data["in_x1"][s])
                inputs = {"views": (views[:, :1], views[:, 1:]), "index": jnp.arange(batch)}
                used = extra["teacher"]  # lightly averages before the targets
                value, params, extra, state = run(params, extra, state, inputs, jnp.int32(s))
                np.testing.assert_allclose(value, loss, rtol=rtol)
                released.check(params, released.weights(data, "out_sd.", NAMES, s), 10 * rtol)
                released.check(used, released.weights(data, "out_", AVERAGED, s), 10 * rtol)
                np.testing.assert_allclose(
                    extra["groups"], data["out_groups"][s], rtol=0, atol=10 * rtol
                )
                encodings = np.asarray(extra["queue"]["keys"][:, 0])
                np.testing.assert_allclose(encodings, data["out_e0"][s], rtol=0, atol=10 * rtol)

    def test_a_refresh_groups_the_queue_and_restarts_the_average(self):
        """Every old encoding is near one of as many directions as there are groups."""
        objective = dataclasses.replace(
            harness.experiment("smog").objective, clusters=4, iterations=20
        )
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        directions = np.eye(4, objective.projector[-1], dtype=np.float32)
        keys = extra["queue"]["keys"]
        near = np.random.default_rng(0).normal(size=keys.shape) / 1e3
        of_row = directions[np.arange(keys.shape[0]) % 4]
        extra["queue"]["keys"] = jnp.asarray(of_row[:, None] + near, jnp.float32)
        moved = jax.tree.map(lambda x: x + 1, params)
        refresh = jax.jit(objective.refresh)
        _, after = refresh(moved, extra, None, jax.random.key(1), jnp.int32(100))
        cosines = np.asarray(after["groups"] @ directions.T)
        np.testing.assert_allclose(np.linalg.norm(after["groups"], axis=1), 1, rtol=1e-5)
        self.assertGreater(cosines.max(axis=1).min(), 0.99)  # each group at one of them
        for name, part in after["teacher"].items():
            jax.tree.map(np.testing.assert_array_equal, part, moved[name])

    def test_when_it_groups_anew(self):
        objective = harness.experiment("smog").objective
        spec = dataclasses.replace(objective.spec, total_steps=301)
        every = dataclasses.replace(objective, spec=spec, reset_every=100)
        self.assertEqual(list(every.refresh_steps()), [100, 200, 300])
        self.assertEmpty(every.pass_steps())
        self.assertEmpty(dataclasses.replace(every, reset_every=0).refresh_steps())

    @parameterized.parameters(
        ({"predictor": (8, 3)}, "ends in 3, but groups have 64 features"),
        ({"clusters": 5000}, "5000 is more than the queue's 1024 encodings"),
    )
    def test_bad_options(self, options, message):
        with self.assertRaisesRegex(UserError, message):
            dataclasses.replace(harness.experiment("smog").objective, **options)
