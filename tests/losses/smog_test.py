"""Momentum groups against lightly's, over three steps."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.losses.cross_entropy import cross_entropy
from ssl_jax.losses.smog import group_logits, nearest_group, update_groups
from tests.losses.forms import load


class SmogTest(absltest.TestCase):
    def test_golden_groups(self):
        data = load("smog_lightly_train3", wide=False)
        groups, momentum = data["in_groups"], float(data["hp_beta"])
        for step, x in enumerate(data["out_e0"]):
            groups = update_groups(groups, x, nearest_group(x, groups), momentum)
            np.testing.assert_allclose(groups, data["out_groups"][step], rtol=1e-5, atol=1e-7)

    def test_golden_loss(self):
        data = load("smog_lightly_train3", wide=False)
        steps = zip(data["out_logits"], data["out_assign"], data["out_loss"], strict=True)
        for logits, assignment, loss in steps:
            value = jnp.mean(cross_entropy(logits, assignment))
            np.testing.assert_allclose(value, loss, rtol=1e-5)

    def test_empty_groups_stay_and_the_gradient_reaches_the_encodings(self):
        draw = np.random.default_rng(0)
        groups, x = (jnp.asarray(draw.normal(size=(n, 3)), jnp.float32) for n in (4, 6))
        assignment = np.array([0, 0, 2, 2, 2, 3])
        moved = update_groups(groups, x, assignment, 0.5)
        np.testing.assert_array_equal(moved[1], groups[1])
        np.testing.assert_allclose(moved[2], (groups[2] + x[2:5].mean(0)) / 2, rtol=1e-6)

        def loss(x):
            logits = group_logits(
                x, update_groups(groups, jax.lax.stop_gradient(x), assignment, 0.5), 0.1
            )
            through = group_logits(
                jax.lax.stop_gradient(x), update_groups(groups, x, assignment, 0.5), 0.1
            )
            return jnp.mean(cross_entropy(logits, assignment)), jnp.mean(
                cross_entropy(through, assignment)
            )

        for index in (0, 1):
            slope = jax.grad(lambda x, index=index: loss(x)[index])(x)
            self.assertGreater(float(jnp.abs(slope).max()), 1e-3)


if __name__ == "__main__":
    absltest.main()
