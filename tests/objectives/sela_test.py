"""SeLa: balanced labels for the whole set, when they are made, and rotations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.objectives.base import DataPass
from tests.objectives import harness


class SeLaTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.made = harness.experiment("sela")
        self.objective = self.made.objective

    def label(self, objective, values, padding=1.0):
        present = np.arange(2048) < 1437
        params, extra = jax.jit(objective.init)(jax.random.key(0))
        records = DataPass(jnp.where(present[:, None], values, padding), jnp.asarray(present))
        _, after = jax.jit(objective.refresh)(
            params, extra, records, jax.random.key(1), jnp.int32(0)
        )
        return np.asarray(after["assignments"])[:1437], params

    def test_labels_are_balanced_and_do_not_see_the_padding(self):
        objective, draw = self.objective, np.random.default_rng(0)
        values = 20 * draw.normal(size=(2048, objective.feature_dim)).astype(np.float32)
        labels, params = self.label(objective, values)
        self.assertEqual(labels.shape, (1437, objective.heads))
        share = 1437 / objective.clusters
        for h in range(objective.heads):
            counts = np.bincount(labels[:, h], minlength=objective.clusters)
            self.assertBetween(counts.min(), 0.5 * share, share)
            self.assertBetween(counts.max(), share, 1.7 * share)
        other, _ = self.label(objective, values, padding=-300.0)
        np.testing.assert_array_equal(other, labels)
        # They are near what the classifier says: much nearer than chance.
        layer = params["classifiers"]["linear1"]
        answers = values[:1437] @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        answers = answers.reshape(1437, objective.heads, objective.clusters).argmax(-1)
        self.assertGreater(np.mean(answers == labels), 10 / objective.clusters)

    def test_when(self):
        spec = dataclasses.replace(self.made.spec, total_steps=1000)
        plan = dataclasses.replace(self.objective, spec=spec, labellings=10, spacing=2.0)
        self.assertEqual(
            sorted(plan.refresh_steps()), [0, 10, 40, 90, 160, 250, 360, 490, 640, 810]
        )
        plan = dataclasses.replace(plan, spacing=1.0)
        self.assertEqual(sorted(plan.refresh_steps()), list(range(0, 1000, 100)))

    def test_rotations_are_one_more_task_on_four_copies(self):
        plain, turned = self.objective, dataclasses.replace(self.objective, rotations=True)
        batch = harness.device_batch(self.made)
        params, extra = jax.jit(turned.init)(jax.random.key(0))
        grads = jax.jit(jax.grad(turned.loss, has_aux=True))(
            params, extra, batch, jax.random.key(0), jnp.int32(0)
        )[0]
        outputs = plain.heads * plain.clusters
        kernel = grads["classifiers"]["linear1"]["kernel"]
        self.assertEqual(kernel.shape[1], outputs + 4)
        self.assertGreater(float(jnp.abs(kernel[:, -4:]).max()), 0)
        labels, _ = self.label(turned, np.ones((2048, kernel.shape[0]), np.float32))
        self.assertEqual(labels.shape, (1437, plain.heads))

    def test_sets_that_are_too_small(self):
        small = dataclasses.replace(self.made.spec, num_examples=20)
        with self.assertRaisesRegex(UserError, "sela cannot make 50 clusters of 20 examples"):
            dataclasses.replace(self.objective, spec=small)
        with self.assertRaisesRegex(UserError, "objective.heads: .* at least 1, got 0"):
            dataclasses.replace(self.objective, heads=0)


if __name__ == "__main__":
    absltest.main()
