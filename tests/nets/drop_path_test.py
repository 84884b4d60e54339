"""Stochastic depth: its rates, its mean, that it belongs to examples, and that 0 is nothing."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.sharding import MeshConfig, batch_sharding, make_mesh
from ssl_jax.nets.backbones.resnet import resnet_custom
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.drop_path import drop, factors, residual

VIT = {"size": None, "patch": 4, "image_size": 8, "dim": 8, "depth": 3, "heads": 2}


def nets(rate):
    return {
        "vit": vit(**VIT, drop_path=rate),
        "resnet": resnet_custom((2, 1), (4, 8), stem="small", drop_path=rate),
    }


class FactorsTest(absltest.TestCase):
    def test_linear_rates_and_a_mean_of_one(self):
        keys = jax.random.split(jax.random.key(0), 4000)
        draws = np.asarray(factors(keys, 0.6, 4, branches=2))
        self.assertEqual(draws.shape, (4, 2, 4000))
        for block, rate in enumerate((0.0, 0.2, 0.4, 0.6)):
            values = np.unique(draws[block])
            np.testing.assert_allclose(values, ([0] if rate else []) + [1 / (1 - rate)], rtol=1e-6)
            np.testing.assert_allclose((draws[block] == 0).mean(), rate, atol=0.03)
        np.testing.assert_allclose(draws.mean((1, 2)), 1, atol=0.06)
        self.assertFalse(np.array_equal(draws[3, 0], draws[3, 1]))

    def test_a_branch_is_scaled_in_its_own_type(self):
        branch = np.ones((2, 3, 4), np.float16)
        out = drop(branch, np.array([0.0, 2.0], np.float32))
        self.assertEqual(out.dtype, np.float16)
        np.testing.assert_array_equal(np.asarray(out)[:, 0, 0], [0, 2])


class RowsTest(parameterized.TestCase):
    """Groups of rows, of which a branch computes a share."""

    def test_a_share_of_each_group_is_drawn_by_example(self):
        keys = jax.random.split(jax.random.key(0), 24)
        rows = np.asarray(factors(keys, 0.4, 3, 2, uniform=True, groups=4))
        self.assertEqual(rows.shape, (3, 2, 4, 3))  # 3 of 6
        self.assertTrue((np.diff(rows) > 0).all() and rows.min() >= 0 and rows.max() < 6)
        again = factors(keys[6:], 0.4, 3, 2, uniform=True, groups=3)
        np.testing.assert_array_equal(again, rows[:, :, 1:])
        counts = np.bincount(rows.ravel(), minlength=6)
        self.assertGreater(counts.min(), 0)

    def test_only_the_drawn_rows_change(self):
        x = np.random.default_rng(0).normal(size=(6, 2, 4)).astype(np.float32)
        draws = np.array([[0, 2], [1, 2]])
        shapes = []

        def branch(x):
            shapes.append(x.shape)
            return 2 * x

        expected = x.copy()
        for row in (0, 2, 4, 5):
            expected[row] += 2 * x[row] * 3 / 2
        np.testing.assert_allclose(residual(x, branch, draws), expected, rtol=1e-6)
        self.assertEqual(shapes, [(4, 2, 4)])
        gradient = jax.grad(lambda x: residual(x, branch, draws).sum())(x)
        np.testing.assert_allclose(gradient[:, 0, 0], [4, 1, 4, 1, 4, 4], rtol=1e-6)

    def test_the_mean_over_the_draws_is_the_whole_branch(self):
        x = np.arange(1.0, 9).reshape(8, 1).astype(np.float32)
        keys = jax.vmap(lambda key: jax.random.split(key, 8))(
            jax.random.split(jax.random.key(0), 2000)
        )
        draws = jax.vmap(lambda keys: factors(keys, 0.5, 1, 1, uniform=True, groups=2)[0, 0])(keys)
        mean = jax.vmap(lambda rows: residual(x, lambda x: x, rows))(draws).mean(0)
        np.testing.assert_allclose(mean, 2 * x, rtol=0.1)

    def test_a_network_on_one_device_and_on_eight(self):
        net = vit(**VIT, drop_path=0.5, drop_path_uniform=True, drop_path_groups=8)
        params, stats = net.init(jax.random.key(0))
        images = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype(np.float32)
        keys = jax.random.split(jax.random.key(1), 32)

        def loss(params, images, keys):
            out = net.apply(params, stats, images, keys=keys, train=True)[0].pooled
            return (out**2).mean()

        step = jax.jit(jax.value_and_grad(loss))
        value, gradient = step(params, images, keys)
        mesh = make_mesh(MeshConfig())
        with jax.set_mesh(mesh):
            images, keys = jax.device_put((images, keys), batch_sharding(mesh))
            compiled = step.lower(params, images, keys).compile()
            split_value, split_gradient = compiled(params, images, keys)
        self.assertNotIn("all-gather", compiled.as_text())
        np.testing.assert_allclose(split_value, value, rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), split_gradient, gradient
        )

    def test_groups_need_one_rate(self):
        with self.assertRaisesRegex(UserError, "drop_path_groups=2: .* drop_path_uniform=True"):
            vit(**VIT, drop_path=0.2, drop_path_groups=2)

    def test_groups_divide_the_crops(self):
        keys = jax.random.split(jax.random.key(0), 6)
        with self.assertRaisesRegex(UserError, "4 groups do not divide 6 crops"):
            factors(keys, 0.4, 3, 2, uniform=True, groups=4)


class NetsTest(parameterized.TestCase):
    @parameterized.parameters("vit", "resnet")
    def test_no_rate_is_the_program_without(self, name):
        net = nets(0.0)[name]
        params, stats = net.init(jax.random.key(0))
        images = np.zeros((2, 8, 8, 3), np.float32)
        plain = jax.jit(lambda p, s, x: net.apply(p, s, x, train=True)).lower(params, stats, images)
        self.assertNotIn("threefry", plain.as_text())
        self.assertFalse(net.draws)

    @parameterized.parameters("vit", "resnet")
    def test_needs_keys_in_training_alone(self, name):
        net = nets(0.5)[name]
        self.assertTrue(net.draws)
        params, stats = net.init(jax.random.key(0))
        images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
        with self.assertRaisesRegex(UserError, "this method draws no stochastic depth"):
            net.apply(params, stats, images, train=True)
        with_rate = net.apply(params, stats, images, train=False)[0].pooled
        without = nets(0.0)[name].apply(params, stats, images, train=False)[0].pooled
        np.testing.assert_array_equal(with_rate, without)

    def test_draws_go_with_the_example(self):
        net = nets(0.5)["vit"]
        params, stats = net.init(jax.random.key(0))
        params = jax.tree.map(lambda p: p + 0.1, params)
        images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
        keys = jax.random.split(jax.random.key(1), 6)
        run = lambda x, k: net.apply(params, stats, x, keys=k, train=True)[0].pooled  # noqa: E731
        there = run(images, keys)
        np.testing.assert_allclose(run(images[::-1], keys[::-1])[::-1], there, rtol=1e-5, atol=1e-6)
        same = run(np.repeat(images[:1], 6, axis=0), keys)  # one image under six draws
        self.assertGreater(len(np.unique(np.round(same[:, 0], 5))), 2)

    def test_a_dropped_block_is_the_identity(self):
        """A block with both branches at 0 passes its tokens on unchanged."""
        net = nets(0.999)["vit"]  # the last block is left out, nearly always
        params, stats = net.init(jax.random.key(0))
        images = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
        keys = jax.random.split(jax.random.key(2), 2)
        draws = np.asarray(factors(keys, 0.999, 3, branches=2))
        self.assertFalse(draws[2].any())
        first = {"blocks": jax.tree.map(lambda p: p.at[2].add(5.0), params["blocks"])}
        run = lambda p: net.apply(p, stats, images, keys=keys, train=True)[0].pooled  # noqa: E731
        np.testing.assert_array_equal(run(params | first), run(params))

    def test_bad_rate(self):
        with self.assertRaisesRegex(
            UserError, r"drop_path: expected a number in \[0, 1\), got 1.0"
        ):
            nets(1.0)


if __name__ == "__main__":
    absltest.main()
