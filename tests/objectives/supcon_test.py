"""SupCon: what labels change, and images without them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.losses.ntxent import ntxent
from ssl_jax.losses.supcon import supcon
from tests.objectives import harness


class SupConTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        made = harness.experiment("supcon")
        self.objective, self.batch = made.objective, harness.device_batch(made)
        self.params, self.extra = jax.jit(self.objective.init)(jax.random.key(0))
        self.run = jax.jit(self.objective.loss)
        self.z, _ = jax.jit(self.objective.embed)(self.params, self.extra, self.batch)

    def value(self, label):
        batch = self.batch | {"label": jnp.asarray(label, jnp.int32)}
        args = self.params, self.extra, batch, jax.random.key(0), jnp.int32(0)
        return self.run(*args)[0]

    def test_both_views_of_a_class_attract(self):
        label = np.arange(harness.BATCH) % 3
        expected = supcon(self.z, np.repeat(label, 2), self.objective.temperature)
        np.testing.assert_allclose(self.value(label), expected, rtol=1e-5)

    def test_without_labels_each_image_is_its_own_class(self):
        expected = ntxent(self.z, self.objective.temperature)
        np.testing.assert_allclose(self.value([-1] * harness.BATCH), expected, rtol=1e-5)

    def test_an_image_without_a_label_is_in_no_class(self):
        label = np.zeros(harness.BATCH, int)
        label[3] = -1
        other = np.where(label < 0, 9, label)  # a class that no other image has
        np.testing.assert_allclose(self.value(label), self.value(other), rtol=1e-6)

    def test_data_without_labels_are_an_error(self):
        spec = dataclasses.replace(self.objective.spec, num_classes=0)
        with self.assertRaisesRegex(UserError, "supcon needs labels .* has 0; without labels"):
            dataclasses.replace(self.objective, spec=spec)


if __name__ == "__main__":
    absltest.main()
