"""Weighted sums of a backbone's layers."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet import make as resnet
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vgg_dilated import make as vgg
from ssl_jax.nets.lasso import combine, lasso, shrink
from tests.nets.weights import GOLDEN, assert_close


class LassoTest(absltest.TestCase):
    def test_golden(self):
        with np.load(GOLDEN / "multitask_dz.npz") as file:
            data = dict(file)
        alpha, units = data["in_alpha"], data["in_units"]
        assert_close(combine(alpha, units), data["out_combined"], 1e-5)

        def loss(alpha, units):
            penalty = data["hp_l1"] * jnp.sum(jnp.abs(alpha))
            return jnp.mean(combine(alpha, units) ** 2) + penalty

        value, gradients = jax.value_and_grad(loss, (0, 1))(alpha, units)
        assert_close(value, data["out_loss_mean_sq_plus_l1"], 1e-5)
        assert_close(gradients[0], data["grad_alpha"], 1e-5)
        assert_close(gradients[1], data["grad_units"], 1e-5)
        step = data["hp_prox_step"] * data["hp_prox_l1"]
        # The proximal step follows a gradient step of the part without the penalty.
        smooth = jax.grad(lambda a: jnp.mean(combine(a, units) ** 2))(alpha)
        candidates = [shrink(alpha, step), shrink(alpha - data["hp_prox_step"] * smooth, step)]
        errors = [np.abs(c - data["out_alpha_prox"]).max() for c in candidates]
        self.assertLess(min(errors), 1e-6)

    def test_the_last_unit_alone_is_the_networks_own_map(self):
        trunk = resnet(8, stem="small", num_filters=4)
        net = lasso(trunk)
        params, stats = jax.jit(net.init)(jax.random.key(0))
        self.assertEqual(params["alpha"].tolist(), [1])  # one block in the last stage
        images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
        read = lambda net, params: jax.jit(net.apply, static_argnames="train")(  # noqa: E731
            params, stats, images, train=False
        )[0]
        alone, whole = read(net, params), read(trunk, params["trunk"])
        np.testing.assert_allclose(alone.map, whole.map, rtol=1e-6)
        np.testing.assert_allclose(alone.pooled, whole.pooled, rtol=1e-6)

    def test_units_of_the_last_stage(self):
        trunk = resnet(18, stem="small", num_filters=4, zero_init_residual=False)
        params, _ = jax.eval_shape(lasso(trunk).init, jax.random.key(0))
        self.assertEqual(params["alpha"].shape, (2,))

    def test_shrink(self):
        x = jnp.array([-2.0, -0.1, 0.0, 0.25, 1.0])
        np.testing.assert_allclose(shrink(x, 0.25), [-1.75, 0, 0, 0, 0.75])

    def test_bad(self):
        with self.assertRaisesRegex(UserError, "lasso: the layers of vgg_dilated have maps of"):
            lasso(vgg((4, 4, 4, 4, 4, 4, 4)))
        self.assertEqual(lasso(resnet_small(4)).name, resnet_small(4).name)


if __name__ == "__main__":
    absltest.main()
