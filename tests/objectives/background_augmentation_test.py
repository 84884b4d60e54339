"""Background augmentation: the negative, the queue, and views of any method with backgrounds."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.objectives.parts import queue
from ssl_jax.run.configs import configured
from ssl_jax.run.experiment import Experiment
from tests.objectives import harness

NAME = "background_augmentation"


class LossTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        made = harness.experiment(NAME)
        cls.objective, cls.batch = made.objective, harness.device_batch(made)
        cls.params, cls.extra = jax.jit(cls.objective.init)(jax.random.key(0))
        jitted = jax.jit(cls.objective.loss)
        cls.loss = staticmethod(
            lambda batch: jitted(cls.params, cls.extra, batch, jax.random.key(0), jnp.int32(0))
        )

    def test_the_matched_negative_is_one_more_logit_of_its_query(self):
        """The loss is a softmax over [own key, own negative, queue], in float64."""
        value, aux = self.loss(self.batch)
        encode = jax.jit(self.encode)
        query = encode(self.params, self.extra["stats"], self.batch["views"][0][:, 0])
        targets = self.extra["key_encoder"], self.extra["key_stats"]
        own, keys = encode(*targets, self.batch["matched"]), aux.signals["keys"]
        own_logits = [np.sum(query * x, axis=1) for x in (keys, own)]
        logits = np.column_stack([*own_logits, query @ queue.keys(self.extra["queue"]).T])
        logits = logits.astype(np.float64) / self.objective.temperature
        self.assertEqual(logits.shape, (harness.BATCH, 2 + self.objective.queue_size))
        want = np.log(np.exp(logits).sum(1)) - logits[:, 0]
        np.testing.assert_allclose(value, want.mean(), rtol=1e-5)
        fooled = aux.metrics["nearer_by_background"]
        np.testing.assert_allclose(fooled, np.mean(logits[:, 1] > logits[:, 0]))

    def encode(self, params, stats, images):
        nets = self.objective.networks.bind(params, stats)
        z = self.objective.encode(nets, images)["projector"]
        return z / jnp.linalg.norm(z, axis=1, keepdims=True)

    def test_it_is_not_enqueued(self):
        _, aux = self.loss(self.batch)
        _, after = self.objective.after_update(self.params, aux.extra, aux.signals, jnp.int32(0))
        changed = (queue.keys(after["queue"]) != queue.keys(self.extra["queue"])).any(1)
        self.assertEqual(changed.sum(), harness.BATCH)
        value, again = self.loss(dict(self.batch, matched=self.batch["matched"][::-1]))
        np.testing.assert_array_equal(again.signals["keys"], aux.signals["keys"])
        self.assertNotEqual(value, self.loss(self.batch)[0])

    def test_a_chain_without_a_background_is_refused(self):
        config = configured(f"{NAME}:digits", [("objective.view.recipe", "digits")])
        with self.assertRaisesRegex(UserError, "expected a chain with a background to swap; set"):
            _ = Experiment.from_config(config).objective


class AnyMethodTest(parameterized.TestCase):
    @parameterized.parameters("moco_v2", "byol", "swav")
    def test_backgrounds_are_a_setting_of_the_views_of_any_method(self, method):
        """Its batches then hold masks, and a data set without them is an error."""
        view = "view" if method == "moco_v2" else "views.0"
        keys = [(f"objective.{view}.recipe.background.probability", 0.5), ("train.batch_size", 8)]
        made = Experiment.from_config(configured(f"{method}:digits", keys, "digits:photos"))
        inputs = made.objective.inputs()
        self.assertTrue(inputs.masks)
        self.assertFalse(inputs.matched)
        batch = next(made.batches(0, 1))
        self.assertEqual(batch["masks"][0].shape, batch["views"][0].shape[:-1])
        self.assertBetween(np.mean(batch["masks"][0]), 0.2, 0.8)
        without = Experiment.from_config(configured(f"{method}:digits", keys, "photos"))
        with self.assertRaisesRegex(
            UserError, "data.masks: photos has no masks, .*data.masks=/path"
        ):
            next(without.batches(0, 1))


if __name__ == "__main__":
    absltest.main()
