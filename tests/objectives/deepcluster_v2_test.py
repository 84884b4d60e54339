"""DeepCluster-v2: its memory, its prototypes, and a loss that starts at log K."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.objectives.base import DataPass
from tests.objectives import harness


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class DeepClusterV2Test(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.made = harness.experiment("deepcluster_v2")
        self.objective = self.made.objective
        self.params, self.extra = jax.jit(self.objective.init)(jax.random.key(0))
        self.refresh = jax.jit(self.objective.refresh)

    def test_the_loss_of_random_prototypes_is_log_k(self):
        objective = dataclasses.replace(self.objective, temperature=1e3)
        loss, _ = jax.jit(objective.loss)(
            self.params,
            self.extra,
            harness.device_batch(self.made),
            jax.random.key(0),
            jnp.int32(0),
        )
        np.testing.assert_allclose(loss, np.log(objective.clusters), rtol=1e-3)

    def test_the_memory_is_filled_by_the_pass_and_then_by_the_steps(self):
        extra, dim = self.extra, self.objective.projector[-1]
        present = np.arange(2048) < 1437
        values = unit(np.random.default_rng(0).normal(size=(2048, dim))) * present[:, None]
        values[9] = 0  # broken
        records = DataPass(
            jnp.asarray(values, jnp.float32), jnp.asarray(present & (values != 0).any(1))
        )
        _, extra = self.refresh(self.params, extra, records, jax.random.key(1), jnp.int32(0))
        for crop in range(self.objective.remembered):
            np.testing.assert_allclose(extra["memory"][:, crop], values, rtol=1e-6)
        self.check(extra)

        batch = harness.device_batch(self.made)
        _, aux = jax.jit(self.objective.loss)(
            self.params, extra, batch, jax.random.key(0), jnp.int32(0)
        )
        _, later = self.objective.after_update(self.params, aux.extra, aux.signals, jnp.int32(0))
        np.testing.assert_array_equal(later["memory"][batch["index"]], aux.signals["embeddings"])
        others = np.setdiff1d(np.arange(2048), batch["index"])
        np.testing.assert_array_equal(later["memory"][others], extra["memory"][others])

        # No pass any more: the clusters are those of the memory.
        self.assertNotIn(2, self.objective.pass_steps())
        _, again = self.refresh(self.params, later, None, jax.random.key(2), jnp.int32(2))
        np.testing.assert_array_equal(again["memory"], later["memory"])
        self.check(again)

    def check(self, extra):
        np.testing.assert_allclose(np.linalg.norm(extra["prototypes"], axis=-1), 1, rtol=1e-5)
        for h in range(self.objective.heads):
            bank = np.asarray(extra["memory"][:, h % self.objective.remembered])
            best = (bank @ np.asarray(extra["prototypes"][h]).T).argmax(1)
            agree = np.mean(best == np.asarray(extra["assignments"][:, h]))
            self.assertGreater(agree, 0.999)
        self.assertBetween(int(extra["assignments"].max()), 1, self.objective.clusters - 1)

    def test_sets_that_are_too_small(self):
        small = dataclasses.replace(self.made.spec, num_examples=20)
        with self.assertRaisesRegex(UserError, "32 clusters of 20 examples"):
            dataclasses.replace(self.objective, spec=small)


if __name__ == "__main__":
    absltest.main()
