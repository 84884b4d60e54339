"""DeepCluster: the state after a refresh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core import sharding, tree
from ssl_jax.core.errors import UserError
from ssl_jax.objectives.base import DataPass
from ssl_jax.training import refresh, state
from tests.objectives import harness


def drawn_pass(made, dim, seed=0):
    """Features of all examples but two, which are broken; the padding is far away."""
    present = np.arange(2048) < made.spec.num_examples
    present[[5, 700]] = False
    values = np.random.default_rng(seed).normal(size=(2048, dim)).astype(np.float32)
    return DataPass(jnp.asarray(np.where(present[:, None], values, 50)), jnp.asarray(present))


class DeepClusterTest(absltest.TestCase):
    def test_a_refresh(self):
        made = harness.experiment("deepcluster")
        objective = made.objective
        mesh = sharding.make_mesh(made.sections["mesh"], jax.devices()[:1])
        placed = state.shardings(made.abstract_state, made.sections["mesh"], mesh)
        whole = state.create(objective, made.tx, 0, placed)
        moments = jax.tree.map(lambda x: x + 1, whole.opt_state)
        records = drawn_pass(made, objective.feature_dim)
        after = jax.jit(refresh.make_kernel(objective, made.tx))(
            dataclasses.replace(whole, opt_state=moments), records
        )
        labels, weights = np.asarray(after.extra["assignments"]), np.asarray(after.extra["weights"])
        present = np.asarray(records.present)
        counts = np.bincount(labels[present], minlength=objective.clusters)
        self.assertEqual(counts.sum(), made.spec.num_examples - 2)
        np.testing.assert_array_equal(weights > 0, counts > 0)
        # As drawn uniformly over clusters: all weigh the same, and an image 1 in the mean.
        used = counts > 0
        np.testing.assert_allclose((weights * counts)[used], counts.sum() / used.sum(), rtol=1e-5)
        np.testing.assert_allclose(weights[labels[present]].mean(), 1, rtol=1e-5)
        # The classifier is new and its optimizer state fresh; the rest goes on.
        old, new = whole.params, after.params
        difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), old, new)
        self.assertGreater(difference["classifier"]["linear1"]["kernel"], 0.01)
        self.assertEqual(float(tree.global_norm(new["classifier"]["linear1"]["bias"])), 0)
        self.assertEqual(max(jax.tree.leaves(difference["backbone"])), 0)
        for name in ("classifier", "rest"):
            values = [float(np.max(x)) for x in jax.tree.leaves(after.opt_state[name])]
            self.assertEqual(set(values), {0.0} if name == "classifier" else {1.0})

    def test_sets_that_are_too_small(self):
        made = harness.experiment("deepcluster")
        small = dataclasses.replace(made.spec, num_examples=49)
        with self.assertRaisesRegex(UserError, "50 clusters of 49 examples; set objective.clust"):
            dataclasses.replace(made.objective, spec=small)
        with self.assertRaisesRegex(UserError, "at most the 32 features"):
            dataclasses.replace(made.objective, whitened=33)


if __name__ == "__main__":
    absltest.main()
