"""ReSSL: the queue's use and order, and the temperatures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.objectives.parts import queue
from tests.objectives import harness


class ReSSLTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        made = harness.experiment("ressl")
        self.objective, self.batch = made.objective, harness.device_batch(made)
        self.params, self.extra = jax.jit(self.objective.init)(jax.random.key(0))

    def loss(self, objective, batch):
        args = self.params, self.extra, batch, jax.random.key(0), jnp.int32(0)
        return jax.jit(objective.loss)(*args)

    def test_equal_views_and_temperatures_leave_the_entropy(self):
        """Student and teacher are copies: the cross-entropy is the teacher's entropy, by hand."""
        near = dataclasses.replace(
            self.objective, student_temperature=0.1, teacher_temperature=0.0999999
        )
        view = self.batch["views"][0]
        value, aux = self.loss(near, self.batch | {"views": (view, view)})
        keys = np.asarray(aux.signals["keys"])
        np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, rtol=1e-5)
        logits = keys @ np.asarray(queue.keys(self.extra["queue"])).T / 0.1
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        entropy = -(p * np.log(p)).sum(1).mean()
        np.testing.assert_allclose(value, entropy, rtol=1e-4)

    def test_only_the_weak_view_enters_the_queue_and_after_the_loss(self):
        _, aux = self.loss(self.objective, self.batch)
        np.testing.assert_array_equal(aux.extra["queue"]["keys"], self.extra["queue"]["keys"])
        _, after = self.objective.after_update(self.params, aux.extra, aux.signals, jnp.int32(0))
        pushed = after["queue"]["keys"][:, 0]
        np.testing.assert_array_equal(pushed, aux.signals["keys"])
        other = (jnp.zeros_like(self.batch["views"][0]), self.batch["views"][1])
        _, again = self.loss(self.objective, self.batch | {"views": other})
        np.testing.assert_array_equal(again.signals["keys"], aux.signals["keys"])

    def test_a_teacher_that_is_not_sharper_is_an_error(self):
        with self.assertRaisesRegex(UserError, "teacher_temperature: 0.1 must be below .* 0.1"):
            dataclasses.replace(self.objective, teacher_temperature=0.1)


if __name__ == "__main__":
    absltest.main()
