"""The ring buffer against MoCo's; its order, its place on the devices, its errors."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.cost.hlo import collectives
from ssl_jax.losses.normalize import l2_normalize
from ssl_jax.objectives.base import Spec
from ssl_jax.objectives.parts import queue

GOLDEN = Path(__file__).parents[2] / "golden"
PUSH = jax.jit(queue.push)


def spec(batch=4, examples=100):
    return Spec(batch, examples, num_classes=0, steps_per_epoch=1, total_steps=1)


def from_columns(columns, batch):
    """MoCo's (d, K), the i-th key of a batch beside the next one's, as ours (B, K / B, d)."""
    return jnp.asarray(columns.T.reshape(-1, batch, len(columns)).swapaxes(0, 1))


class QueueTest(parameterized.TestCase):
    def test_golden(self):
        data = np.load(GOLDEN / "moco_infonce_queue.npz")
        batch = data["in_k"].shape[1]
        q = {"keys": from_columns(data["in_queue"], batch), "next": jnp.zeros((), jnp.int32)}
        for s, keys in enumerate(data["in_k"]):
            q = PUSH(q, l2_normalize(keys, floor="norm"))
            expected = from_columns(data["out_queue"][s], batch)
            np.testing.assert_allclose(q["keys"], expected, atol=1e-6)
            self.assertEqual(int(q["next"]) * batch, int(data["out_ptr"][s]))

    def test_starts_with_unit_vectors(self):
        q = queue.init(jax.random.key(0), 12, 5, spec())
        self.assertEqual(queue.keys(q).shape, (12, 5))
        np.testing.assert_allclose(jnp.linalg.norm(queue.keys(q), axis=1), 1, rtol=1e-5)
        self.assertLess(float(jnp.abs(jnp.mean(queue.keys(q)))), 0.3)

    def test_holds_the_last_batches_and_forgets_the_oldest(self):
        q = queue.init(jax.random.key(0), 12, 1, spec())
        for s in range(5):
            q = PUSH(q, 10.0 * s + jnp.arange(4.0)[:, None])
        expected = [10 * s + i for s in (2, 3, 4) for i in range(4)]
        np.testing.assert_array_equal(jnp.sort(queue.keys(q)[:, 0]), expected)

    def test_lies_by_rows_and_a_push_sends_nothing(self):
        mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4))
        extra = jax.eval_shape(
            lambda: {"queue": queue.init(jax.random.key(0), 64, 8, spec(batch=16))}
        )
        placed = sharding.tree_shardings(extra, sharding.MeshConfig(), mesh)["queue"]
        rows = sharding.batch_sharding(mesh)
        self.assertEqual(placed, {"keys": rows, "next": sharding.replicated(mesh)})
        batch = jax.ShapeDtypeStruct((16, 8), jnp.float32)
        push = jax.jit(queue.push, in_shardings=(placed, rows), out_shardings=placed)
        self.assertEqual(collectives(push.lower(extra["queue"], batch).compile().as_text()), [])

    @parameterized.parameters(
        (10, 100, "10 is not a multiple of the batch of 4; use 8"),
        (0, 100, "0 is not a multiple of the batch of 4; use 4"),
        (65538, 100, "use 100"),
        (104, 103, "104 keys of 103 examples .* at most 100"),
    )
    def test_user_errors(self, size, examples, message):
        with self.assertRaisesRegex(UserError, message):
            queue.init(jax.random.key(0), size, 5, spec(examples=examples))


if __name__ == "__main__":
    absltest.main()
