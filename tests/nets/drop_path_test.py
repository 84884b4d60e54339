"""Stochastic depth: its rates, its mean, that it belongs to examples, and that 0 is nothing."""

import jax
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet import resnet_custom
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.drop_path import drop, factors

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
