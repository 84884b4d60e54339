"""JFT: the start at the prior, classes split over devices, and what is no data for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.sharding import MeshConfig, make_mesh, tree_shardings
from ssl_jax.losses.multi_label import sigmoid_cross_entropy
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.objectives.base import Spec, View
from ssl_jax.objectives.jft import JFT

SPEC = Spec(8, 20, 1500, 2, 100)
RNG = np.random.default_rng(0)


def jft(spec=SPEC, **hyper):
    return JFT(resnet_small(4, stem="cifar"), spec, **({"view": View(8), "positives": 3.0} | hyper))


class JFTTest(parameterized.TestCase):
    def test_every_class_starts_at_the_prior(self):
        made = jft()
        params, extra = made.init(jax.random.key(0))
        features = jnp.zeros((8, made.feature_dim))
        logits = made.scores(params["memory"], features)
        chances = jax.nn.sigmoid(logits)
        np.testing.assert_allclose(chances[:, :1500], 3.0 / 1500, rtol=1e-5)
        np.testing.assert_array_equal(chances[:, 1500:], 0)
        np.testing.assert_allclose(jnp.sum(chances, axis=1), 3.0, rtol=1e-5)
        images = jnp.zeros((8, 1, 8, 8, 3))
        batch = {"views": (images,), "labels": jnp.tile(jnp.array([0, 700, 1499, -1]), (8, 1))}
        loss, aux = made.loss(params, extra, batch, jax.random.key(0), jnp.int32(0))
        p = 3.0 / 1500
        entropy = -1500 * (p * np.log(p) + (1 - p) * np.log(1 - p))
        np.testing.assert_allclose(loss, entropy, rtol=0.02)  # not 1500 ln 2 = 1040
        self.assertEqual(aux.metrics["labels"], 3)

    def test_split_over_devices_it_equals_the_dense_loss(self):
        made, mesh = jft(), make_mesh(MeshConfig(data=4, fsdp=2))
        shape = (2048, made.feature_dim)
        classes = {
            "kernel": jnp.asarray(RNG.normal(size=shape), jnp.float32),
            "bias": jnp.asarray(RNG.normal(size=shape[:1]), jnp.float32),
        }
        features = jnp.asarray(RNG.normal(size=(8, made.feature_dim)), jnp.float32)
        labels = jnp.asarray(RNG.integers(-1, 1500, (8, 4)))

        def loss(classes, features):
            return jnp.mean(sigmoid_cross_entropy(made.scores(classes, features), labels))

        def dense(classes, features):
            z = features @ classes["kernel"][:1500].T + classes["bias"][:1500]
            y = jnp.zeros((8, 1501)).at[jnp.arange(8)[:, None], labels].set(1)[:, :1500]
            return jnp.mean(jnp.sum(jnp.logaddexp(0, z) - y * z, axis=1))

        want, slopes = jax.value_and_grad(dense, argnums=(0, 1))(classes, features)
        state = {"memory": classes}
        placed = jax.device_put(state, tree_shardings(state, MeshConfig(data=4, fsdp=2), mesh))
        with jax.set_mesh(mesh):
            value, ours = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
                placed["memory"], features
            )
        self.assertEqual(placed["memory"]["kernel"].addressable_shards[0].data.shape[0], 2048 // 8)
        self.assertEqual(ours[0]["kernel"].addressable_shards[0].data.shape[0], 2048 // 8)
        np.testing.assert_allclose(value, want, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), ours, slopes)

    @parameterized.parameters(
        ({"view": View(8, count=2)}, {}, "view.count: expected 1, got 2"),
        ({"positives": 2000.0}, {}, "expected fewer than the 1500 classes, got 2000"),
        ({}, {"num_classes": 0}, "labels of at least two classes"),
    )
    def test_user_errors(self, hyper, facts, message):
        with self.assertRaisesRegex(UserError, message):
            jft(dataclasses.replace(SPEC, **facts), **hyper)


if __name__ == "__main__":
    absltest.main()
