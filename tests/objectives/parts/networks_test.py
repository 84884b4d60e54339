"""Bound networks: statistics from call to call, batch norm over groups of rows, parallel heads."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.nets.backbones.resnet_small import make as resnet_small
from ssl_jax.nets.backbones.vit import make as vit
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.parts.networks import Networks
from tests.nets import weights as torch

IMAGES = torch.random_images(8, 8, 8, 1)


def networks(**options):
    backbone = resnet_small(width=4, channels=1)
    return Networks({"backbone": backbone, "head": mlp_head(16, (8, 4))}, **options)


def apply(networks, variables, images, train=True):
    """Return the head's output and the new statistics."""

    def forward(variables, images):
        nets = networks.bind(*variables, train=train)
        return nets.head(nets.backbone(images).pooled), nets.stats

    return jax.jit(forward)(variables, images)


class NetworksTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.whole, self.grouped = networks(), networks(bn_groups=2)
        self.variables = jax.jit(self.whole.init)(jax.random.key(0))

    def test_groups_are_batches_of_their_own(self):
        out, stats = apply(self.grouped, self.variables, IMAGES)
        halves = [apply(self.whole, self.variables, half) for half in (IMAGES[:4], IMAGES[4:])]
        torch.assert_close(out, np.concatenate([o for o, _ in halves]), 1e-5)
        mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][1], halves[1][1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), stats, mean)
        together = apply(self.whole, self.variables, IMAGES)[0]
        self.assertGreater(float(jnp.abs(out - together).max()), 0.01)

    def test_groups_split_keyword_arrays_too(self):
        net = vit(None, 4, 8, dim=8, depth=1, heads=2, channels=1)
        keep = np.array([[0, 1], [2, 3], [1, 3], [0, 2]])
        whole, grouped = (Networks({"backbone": net}, bn_groups=g) for g in (1, 2))
        variables = whole.init(jax.random.key(0))
        tokens = [n.bind(*variables).backbone(IMAGES[:4], keep=keep) for n in (whole, grouped)]
        torch.assert_close(tokens[1].tokens, tokens[0].tokens, 1e-5)

    def test_evaluation_knows_no_groups_and_keeps_the_statistics(self):
        first, second = (
            apply(n, self.variables, IMAGES, False) for n in (self.whole, self.grouped)
        )
        jax.tree.map(np.testing.assert_array_equal, first, second)
        jax.tree.map(np.testing.assert_array_equal, first[1], self.variables[1])

    def test_statistics_pass_from_call_to_call(self):
        views = [IMAGES[:4], IMAGES[4:]]

        @jax.jit
        def both(variables):
            nets = self.whole.bind(*variables)
            return [nets.head(nets.backbone(view).pooled) for view in views], nets.stats

        outs, stats = both(self.variables)
        first, between = apply(self.whole, self.variables, views[0])
        second, after = apply(self.whole, (self.variables[0], between), views[1])
        for out, expected in zip(outs, (first, second), strict=True):
            torch.assert_close(out, expected, 1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, after)

    def test_a_head_on_the_map_beside_the_pooled_one(self):
        both = Networks({**self.whole.nets, "dense": mlp_head(16, (8, 4))})
        params, stats = both.init(jax.random.key(0))

        @jax.jit
        def forward(images):
            nets = both.bind(params, stats)
            features = nets.backbone(images)
            return nets.head(features.pooled), nets.dense(features.map), nets.stats

        pooled, dense, new_stats = forward(IMAGES)
        self.assertEqual((pooled.shape, dense.shape[0], dense.shape[-1]), ((8, 4), 8, 4))
        self.assertEqual(dense.ndim, 4)
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), new_stats, stats)
        self.assertTrue(all(jax.tree.leaves(moved)))

    def test_some_of_the_networks(self):
        params, _ = self.whole.only("head").init(jax.random.key(0))
        self.assertEqual(set(params), {"head"})
        # The weights follow from key and name.
        jax.tree.map(np.testing.assert_array_equal, params["head"], self.variables[0]["head"])

    def test_a_network_without_batch_norm_needs_no_entry(self):
        linear = Networks({"classifier": mlp_head(16, (4,))})
        params, _ = linear.init(jax.random.key(0))
        nets = linear.bind(params, {})
        self.assertEqual(nets.classifier(jnp.ones((2, 16))).shape, (2, 4))
        self.assertEqual(nets.stats, {})

    def test_errors(self):
        with self.assertRaisesRegex(UserError, "3 groups do not divide a batch of 8"):
            networks(bn_groups=3).bind(*self.variables).backbone(IMAGES)
        with self.assertRaisesRegex(AttributeError, "no network 'haed'; there are backbone, head"):
            _ = self.whole.bind(*self.variables).haed


if __name__ == "__main__":
    absltest.main()
