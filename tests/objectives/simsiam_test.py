"""SimSiam: what is held constant, and the predictor's learning rate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.losses.negative_cosine import negative_cosine
from tests.objectives import harness


class SimSiamTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.made = harness.experiment("simsiam")
        self.objective = self.made.objective
        self.params, self.extra = jax.jit(self.objective.init)(jax.random.key(0))
        self.batch = harness.device_batch(self.made)

    def loss(self, params):
        return self.objective.loss(params, self.extra, self.batch, jax.random.key(0), jnp.int32(0))[
            0
        ]

    def test_projections_are_constant_targets(self):
        """The gradient is that of a loss whose targets were computed beforehand."""
        views = [self.batch["views"][0][:, i] for i in range(2)]

        def apply(params):
            """Return projection and prediction of each view."""
            nets = self.objective.networks.bind(params, self.extra["stats"])
            projections = [nets.projector(nets.backbone(view).pooled) for view in views]
            return [(z, nets.predictor(z)) for z in projections]

        (z1, _), (z2, _) = jax.jit(apply)(self.params)

        def written_out(params):
            (_, p1), (_, p2) = apply(params)
            return jnp.mean(negative_cosine(p1, z2)) / 2 + jnp.mean(negative_cosine(p2, z1)) / 2

        value, grads = jax.jit(jax.value_and_grad(self.loss))(self.params)
        same, expected = jax.jit(jax.value_and_grad(written_out))(self.params)
        np.testing.assert_allclose(value, same, rtol=1e-5)
        worst, where = harness.worst_difference(expected, grads, 1e-3)
        self.assertLessEqual(worst, 1e-4, where)
        self.assertTrue(-1 <= float(value) <= 1)

    def test_the_predictor_keeps_its_rate(self):
        """The encoder hardly moves at the cosine's last step, the predictor as much as before."""
        params = self.params
        ones = jax.tree.map(jnp.ones_like, params)
        last = jnp.int32(self.made.spec.total_steps)
        update = lambda tx: tx.update(ones, tx.init(params), params, step=last)[0]  # noqa: E731
        moved = jax.jit(lambda: update(self.made.tx))()
        self.assertGreater(float(jnp.abs(moved["predictor"]["linear2"]["kernel"]).max()), 0.005)
        self.assertLess(float(jnp.abs(moved["projector"]["linear1"]["kernel"]).max()), 1e-6)
        released = dataclasses.replace(self.objective, fix_predictor_lr=False)
        self.assertFalse(released.groups()["predictor"].constant_lr)


if __name__ == "__main__":
    absltest.main()
