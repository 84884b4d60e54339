"""InstDisc's NCE form, which the digits recipe does not use, and its communication per step."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
from absl.testing import absltest, parameterized
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.cost.hlo import collectives
from tests.objectives import harness


def with_negatives(negatives, **mesh):
    made = harness.experiment("instdisc", **mesh)
    objective = dataclasses.replace(made.objective, negatives=negatives)
    return made, SimpleNamespace(objective=objective)


class InstDiscTest(parameterized.TestCase):
    def observed(self, devices):
        made, nce = with_negatives(64, data=devices)
        mesh = sharding.make_mesh(made.sections["mesh"], jax.devices()[:devices])
        placed = sharding.tree_shardings(
            jax.eval_shape(nce.objective.init, jax.random.key(0)), made.sections["mesh"], mesh
        )
        params, extra = jax.jit(nce.objective.init)(jax.random.key(3))
        batch = harness.device_batch(made)
        rows, whole = sharding.batch_sharding(mesh), NamedSharding(mesh, P())
        run = jax.jit(harness.observe(nce), in_shardings=(*placed, rows, whole))
        with jax.set_mesh(mesh):
            return jax.device_get(run(*jax.device_get((params, extra, batch, np.int32(0)))))

    def test_nce_is_equal_on_one_and_eight_devices(self):
        one, eight = self.observed(1), self.observed(8)
        worst, where = harness.worst_difference(one, eight, 1e-3)
        self.assertLessEqual(worst, 1e-4, where)
        self.assertGreater(one["extra"]["partition"], 0)

    def test_the_partition_is_that_of_the_first_batch(self):
        made, nce = with_negatives(64)
        params, extra = jax.jit(nce.objective.init)(jax.random.key(3))
        run = jax.jit(harness.observe(nce))
        first = run(params, extra, harness.device_batch(made, 0), np.int32(0))["extra"]
        second = run(params, first, harness.device_batch(made, 1), np.int32(1))["extra"]
        self.assertEqual(first["partition"], second["partition"])
        self.assertEqual(extra["partition"], 0)
        # exp(cosine / t) of random vectors, N times: cosines are small beside t.
        count = made.spec.num_examples
        self.assertBetween(float(first["partition"]), count / 2, 50 * count)

    @parameterized.parameters(0, 512)
    def test_the_memory_stays_on_its_devices(self, negatives):
        made, tested = with_negatives(negatives, data=8)
        objective = dataclasses.replace(
            tested.objective, spec=dataclasses.replace(made.spec, num_examples=65536)
        )
        mesh = sharding.make_mesh(made.sections["mesh"], jax.devices()[:8])
        like = jax.eval_shape(objective.init, jax.random.key(0))
        placed = sharding.tree_shardings(like, made.sections["mesh"], mesh)
        rows, whole = sharding.batch_sharding(mesh), NamedSharding(mesh, P())
        run = jax.jit(
            harness.observe(SimpleNamespace(objective=objective)),
            in_shardings=(*placed, rows, whole),
            out_shardings={
                "loss": whole,
                "grads": placed[0],
                "params": placed[0],
                "extra": placed[1],
            },
        )
        with jax.set_mesh(mesh):
            lowered = run.lower(*like, harness.device_batch(made), np.int32(0))
        text = lowered.compile().as_text()
        bank = like[1]["memory"]
        self.assertEqual(bank.shape[0], 65536)
        self.assertLess(max(c.elements for c in collectives(text)), bank.size / 50)

    def test_bad_numbers(self):
        with self.assertRaisesRegex(UserError, "objective.negatives: .* at least 0, got -1"):
            with_negatives(-1)


if __name__ == "__main__":
    absltest.main()
