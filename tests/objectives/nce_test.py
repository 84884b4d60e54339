"""NCE: against the released steps through the method, and its three normalisers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.core.sharding import padded_rows
from ssl_jax.nets.features import Features
from ssl_jax.nets.functional import Net
from ssl_jax.objectives import nce
from ssl_jax.objectives.base import Spec, View
from tests.losses.forms import load
from tests.objectives import harness, released

PIXELS = Net(lambda key: ({}, {}), lambda p, s, x, **_: (Features(pooled=x[:, 0, 0]), s), "pixels")


class Injected(nce.NCE):
    """NCE with the noise of a fixture, which is in the key's place."""

    def candidate_scores(self, features, bank, index, key):
        candidates = jnp.concatenate([index[:, None], key[:, 1:]], axis=1)
        return jnp.einsum("bd,bmd->bm", features, bank[candidates]) / self.temperature


class GoldenTest(absltest.TestCase):
    def test_two_steps(self):
        for wide in (True, False):
            data = load("instdisc_nce", wide)
            with jax.enable_x64(wide):
                self.check(data, wide)

    def check(self, data, wide):
        _, batch, width = data["in_x"].shape
        count = int(data["hp_N_data"])
        objective = Injected.make(
            PIXELS,
            Spec(batch, count, 0, steps_per_epoch=1, total_steps=2, channels=width),
            view=View(1),
            projector=(width,),
            negatives=int(data["hp_K"]),
            temperature=released.hyper(data, "T"),
            momentum=released.hyper(data, "momentum"),
            normaliser="estimated",
        )
        objective.__dict__["networks"] = objective.backbone_and(projector=released.IDENTITY)
        params, extra = objective.init(jax.random.key(0))
        dtype = data["in_x"].dtype
        bank = np.zeros((padded_rows(count), width), dtype)
        bank[:count] = data["in_memory"]
        extra = extra | {"memory": jnp.asarray(bank), "partition": jnp.zeros((), dtype)}

        def loss(x, extra, index, noise):
            batch = {"views": (x[:, None, None, None],), "index": index}
            return objective.loss(params, extra, batch, noise, jnp.int32(0))

        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        rtol = 1e-6 if wide else 1e-5
        for s, expected in enumerate(data["out_loss"]):
            index = jnp.asarray(data["in_y"][s], jnp.int32)
            noise = jnp.asarray(data["in_idx"][s], jnp.int32)
            (value, aux), grad = run(jnp.asarray(data["in_x"][s]), extra, index, noise)
            _, extra = objective.after_update(params, aux.extra, aux.signals, jnp.int32(s))
            np.testing.assert_allclose(value, expected, rtol=rtol)
            np.testing.assert_allclose(extra["partition"], data["out_Z"][s], rtol=rtol)
            released.check(extra["memory"][:count], data["out_memory"][s], 10 * rtol)
            # Here the vector is normalised once more: its gradient has no part along it.
            x, slope = data["in_x"][s], data["grad_x"][s]
            across = slope - np.sum(slope * x, axis=1, keepdims=True) * x
            released.check(grad, across, 10 * rtol)


class NormaliserTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        made = harness.experiment("nce")
        self.objective, self.batch = made.objective, harness.device_batch(made)

    def loss(self, normaliser, shift=0.0):
        objective = dataclasses.replace(self.objective, normaliser=normaliser)
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        if shift:
            params["normaliser"] += shift
        args = extra, self.batch, jax.random.key(0), jnp.int32(0)
        run = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
        (value, aux), grads = run(params, *args)
        return value, aux.extra, grads, params

    def test_trained_starts_where_orthogonal_vectors_have_it(self):
        _, extra, grads, params = self.loss("trained")
        self.assertNotIn("partition", extra)
        np.testing.assert_allclose(params["normaliser"], -np.log(1437), rtol=1e-6)
        change = self.loss("trained", 1e-2)[0] - self.loss("trained", -1e-2)[0]
        np.testing.assert_allclose(grads["normaliser"], change / 2e-2, rtol=1e-2)

    def test_none_is_a_trained_one_at_zero(self):
        value, _, _, params = self.loss("none")
        self.assertNotIn("normaliser", params)
        np.testing.assert_allclose(value, self.loss("trained", np.log(1437))[0], rtol=1e-5)

    def test_estimated_is_a_trained_one_at_the_estimate(self):
        value, extra, _, _ = self.loss("estimated")
        shift = np.log(1437) - np.log(extra["partition"])
        np.testing.assert_allclose(value, self.loss("trained", shift)[0], rtol=1e-5)

    def test_numbers_of_negatives_that_do_not_fit(self):
        with self.assertRaisesRegex(UserError, "objective.negatives: .* at least 1, got 0"):
            dataclasses.replace(self.objective, negatives=0)
        with self.assertRaisesRegex(UserError, "objective.negatives: cannot draw 4096 of 1437 ex"):
            dataclasses.replace(self.objective, negatives=4096)


if __name__ == "__main__":
    absltest.main()
