"""The collectives of compiled programs: the counter's two controls, then the SimCLR step."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import sharding
from ssl_jax.cost.hlo import collectives
from ssl_jax.training import state
from ssl_jax.training.step import make_train_step
from tests.objectives import harness


def compiled_text(fn, mesh, *args):
    rows = sharding.batch_sharding(mesh)
    return jax.jit(fn, in_shardings=(rows,) * len(args)).lower(*args).compile().as_text()


class CollectivesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.mesh = sharding.make_mesh(sharding.MeshConfig())

    def test_positive_control(self):
        """A mean over rows must be reduced; all pairs of rows need the other devices' rows."""
        x = jnp.ones((16, 4), jnp.float32)
        self.assertEqual(
            [c.kind for c in collectives(compiled_text(jnp.mean, self.mesh, x))], ["all-reduce"]
        )
        gathered = collectives(compiled_text(lambda z: jnp.exp(z @ z.T).sum(1), self.mesh, x))
        self.assertIn("all-gather", {c.kind for c in gathered})
        self.assertIn(16 * 4, [c.elements for c in gathered])  # all rows, in either layout

    def test_combined_collectives_count(self):
        """Two reductions of different shapes may be combined into one of a tuple type."""
        text = (
            "  %all-reduce.1 = (f32[4]{0}, f32[]) all-reduce(%a, %b), replica_groups={}\n"
            "  %ag = (f32[2]{0}, f32[16]{0}) all-gather-start(%c), dimensions={0}\n"
            "  %done = f32[16]{0} all-gather-done(%ag)\n"
        )
        operations = collectives(text)
        self.assertEqual([c.kind for c in operations], ["all-reduce", "all-gather"])
        self.assertEqual(operations[0].shapes, (("f32", (4,)), ("f32", ())))
        self.assertEqual(operations[0].elements, 5)

    def test_negative_control(self):
        """Work within a row needs none."""
        text = compiled_text(lambda z: jnp.tanh(z).sum(1), self.mesh, jnp.ones((16, 4)))
        self.assertEqual(collectives(text), [])

    def test_simclr_gathers_the_embeddings_and_reduces_the_rest(self):
        made = harness.experiment("simclr", data=8)
        placed = state.shardings(made.abstract_state, made.sections["mesh"], self.mesh)
        step = make_train_step(made.objective, made.tx, made.schedule, self.mesh, placed)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), next(made.batches(0, 1))
        )
        with jax.set_mesh(self.mesh):
            text = step.lower(made.abstract_state, batch).compile().as_text()
        operations = collectives(text)
        kinds = collections.Counter(c.kind for c in operations)
        gathers = [c for c in operations if c.kind in ("all-gather", "collective-permute")]
        self.assertGreaterEqual(len(gathers), 1)
        self.assertGreater(kinds["all-reduce"], 0)
        self.assertEqual(set(kinds) - {"all-gather", "collective-permute", "all-reduce"}, set())
        # What is gathered are embeddings, (2B, projector) or smaller: never images or features.
        width = made.objective.projector[-1]
        largest = max(np.prod(s) for c in gathers for _, s in c.shapes)
        self.assertEqual(largest, 2 * harness.BATCH * width)

    def test_replicated_parameters_are_not_gathered(self):
        whole = NamedSharding(self.mesh, P())
        fn = jax.jit(lambda w, x: x @ w, in_shardings=(whole, sharding.batch_sharding(self.mesh)))
        text = fn.lower(jnp.ones((4, 4)), jnp.ones((16, 4))).compile().as_text()
        self.assertEqual(collectives(text), [])


if __name__ == "__main__":
    absltest.main()
