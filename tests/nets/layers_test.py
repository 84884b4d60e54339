"""Normalisation against its definition: precision, statistics, options, dtypes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.nets.functional import functional
from ssl_jax.nets.layers import BatchNorm, LayerNorm
from tests.nets import weights as torch


def batch_norm(features=3, **options):
    return functional(lambda rngs: BatchNorm(features, **options))


class BatchNormTest(parameterized.TestCase):
    @parameterized.parameters((0.0, 1.0), (30.0, 1.0), (1000.0, 1.0), (0.0, 1e-3))
    def test_definition(self, mean, std):
        net = batch_norm()
        x = np.random.default_rng(0).normal(mean, std, (6, 5, 4, 3)).astype(np.float32)
        params, stats = torch.jit(net.init)(jax.random.key(0))
        # Running means as they are after a few steps: near the true ones.
        stats = stats | {"mean": jnp.full((3,), mean + std, jnp.float32)}
        y, updated = torch.jit(lambda x: net.apply(params, stats, x, train=True))(x)
        exact = x.astype(np.float64)
        expected_mean, expected_var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
        expected = (exact - expected_mean) / np.sqrt(expected_var + 1e-5)
        # float32 inputs near 1000 are 6e-5 apart
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 + 1e-7 * abs(mean) / std)
        count = x.size // 3
        np.testing.assert_allclose(
            updated["mean"], 0.9 * stats["mean"] + 0.1 * expected_mean, rtol=1e-6, atol=1e-7
        )
        np.testing.assert_allclose(
            updated["var"], 0.9 + 0.1 * expected_var * count / (count - 1), rtol=1e-5
        )

    def test_evaluation_uses_and_keeps_the_running_statistics(self):
        net = batch_norm()
        params, _ = net.init(jax.random.key(0))
        stats = {"mean": jnp.array([1.0, 2, 3]), "var": jnp.array([4.0, 1, 9])}
        y, same = net.apply(params, stats, jnp.ones((1, 3)), train=False)
        np.testing.assert_allclose(y[0], [0, -1, -2 / 3], rtol=1e-5, atol=1e-6)
        self.assertIs(same, stats)

    @parameterized.parameters(
        ({}, {"scale": 1, "bias": 0}),
        (dict(use_bias=False), {"scale": 1}),
        (dict(use_scale=False, use_bias=False), {}),
        (dict(zero_scale=True), {"scale": 0, "bias": 0}),
    )
    def test_parameters(self, options, expected):
        params, stats = batch_norm(2, **options).init(jax.random.key(0))
        self.assertEqual({k: float(v[0]) for k, v in params.items()}, expected)
        self.assertEqual({k: float(v[0]) for k, v in stats.items()}, {"mean": 0, "var": 1})

    def test_single_row_is_finite(self):
        net = batch_norm()
        params, stats = net.init(jax.random.key(0))
        y, updated = net.apply(params, stats, jnp.ones((1, 3)), train=True)
        chex.assert_tree_all_finite((y, updated))
        np.testing.assert_allclose(y, 0, atol=1e-6)

    def test_groups_by_vmap(self):
        net = batch_norm()
        params, stats = net.init(jax.random.key(0))
        x = torch.random_images(4, 6, 3) + np.arange(4, dtype=np.float32)[:, None, None]
        y, updated = jax.vmap(lambda x: net.apply(params, stats, x, train=True))(x)
        row, updated_row = net.apply(params, stats, x[2], train=True)
        np.testing.assert_allclose(y[2], row, atol=1e-6)
        chex.assert_trees_all_close(jax.tree.map(lambda s: s[2], updated), updated_row, rtol=1e-6)

    def test_statistics_are_of_the_global_batch(self):
        net = batch_norm()
        params, stats = net.init(jax.random.key(0))
        x = np.arange(8 * 3, dtype=np.float32).reshape(8, 3) ** 2
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        apply = torch.jit(lambda x: net.apply(params, stats, x, train=True))
        chex.assert_trees_all_close(apply(jax.device_put(x, rows)), apply(x), rtol=1e-5, atol=1e-6)

    def test_dtypes(self):
        net = batch_norm()
        params, stats = net.init(jax.random.key(0))
        y, updated = net.apply(params, stats, jnp.ones((4, 3), jnp.bfloat16), train=True)
        self.assertEqual((y.dtype, updated["var"].dtype), (jnp.bfloat16, jnp.float32))
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda v: v.astype(jnp.float64), (params, stats))
            x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 3)))
            y, updated = net.apply(*wide, x, train=True)
            self.assertEqual((y.dtype, updated["var"].dtype), (jnp.float64, jnp.float64))
            np.testing.assert_allclose(updated["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-13)


class OtherTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 300.0)
    def test_layer_norm(self, mean):
        class Norm(LayerNorm):
            def __call__(self, x, *, train):
                del train
                return super().__call__(x)

        net = functional(lambda rngs: Norm(64))
        params, _ = net.init(jax.random.key(0))
        x = np.random.default_rng(0).normal(mean, 1, (3, 64)).astype(np.float32)
        exact = x.astype(np.float64)
        expected = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(
            exact.var(-1, keepdims=True) + 1e-6
        )
        y, _ = net.apply(params, {}, x, train=True)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 + 1e-7 * mean)


if __name__ == "__main__":
    absltest.main()
