"""TiCo: its covariance state against lightly through the method, and its slow average."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import tico
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import harness, released

PIXELS = Net(lambda key: ({}, {}), lambda p, s, x, **_: (Features(pooled=x[:, 0, 0]), s), "pixels")


class TiCoTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_two_steps(self, wide):
        """The fixture's embeddings are the images here, and all networks the identity."""
        data = load("tico", wide)
        with jax.enable_x64(wide):
            _, batch, width = data["in_z1"].shape
            objective = tico.make(
                PIXELS,
                Spec(batch, 100, 0, steps_per_epoch=1, total_steps=3, channels=width),
                views=(View(1), View(1)),
                projector=(width, width),
                decay=released.hyper(data, "tico_beta"),
                weight=released.hyper(data, "tico_rho"),
            )
            identity = objective.backbone_and(projector=released.IDENTITY)
            objective.__dict__["networks"] = identity
            params, extra = objective.init(jax.random.key(0))
            extra["covariance"] = extra["covariance"].astype(data["in_z1"].dtype)

            def loss(first, second, extra):
                views = tuple(jnp.asarray(x)[:, None, None, None] for x in (first, second))
                return objective.loss(params, extra, {"views": views}, None, jnp.int32(0))

            run = jax.jit(jax.value_and_grad(lambda *args: loss(*args), has_aux=True))
            rtol = 1e-7 if wide else 1e-5
            for s, expected in enumerate(data["out_tico_loss"]):
                args = data["in_z1"][s], data["in_z2"][s], extra
                (value, aux), grad = run(*args)
                extra = aux.extra
                np.testing.assert_allclose(value, expected, rtol=rtol)
                released.check(extra["covariance"], data["out_tico_C"][s], 10 * rtol)
                released.check(grad, data["grad_tico_z1"][s], 10 * rtol)

    def test_the_average_starts_as_a_copy_and_moves(self):
        made = harness.experiment("tico")
        objective = dataclasses.replace(made.objective, momentum=0.5)
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        jax.tree.map(np.testing.assert_array_equal, extra["teacher"], params)
        moved = jax.tree.map(lambda x: x + 1, params)
        _, after = objective.after_update(moved, extra, {}, jnp.int32(0))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y + 0.5, rtol=1e-5), after["teacher"], params
        )
