"""Branches: batch norm over groups of rows, views one by one."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.nets import make_backbone
from ssl_jax.nets.heads import mlp_head
from ssl_jax.objectives.parts.branch import Branch
from tests.nets import weights as torch

IMAGES = torch.random_images(8, 8, 8, 1)


def branch(**options):
    backbone = make_backbone("resnet_small", 1, {"width": 4})
    return Branch((("backbone", backbone), ("head", mlp_head(16, (8, 4)))), **options)


def apply(b, variables, images, train=True):
    return jax.jit(lambda v, x: b.apply(*v, x, train=train))(variables, images)


class BranchTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.whole, self.grouped = branch(), branch(bn_groups=2)
        self.variables = jax.jit(self.whole.init)(jax.random.key(0))

    def test_groups_are_batches_of_their_own(self):
        out, stats = apply(self.grouped, self.variables, IMAGES)
        halves = [apply(self.whole, self.variables, half) for half in (IMAGES[:4], IMAGES[4:])]
        torch.assert_close(out["head"], np.concatenate([o["head"] for o, _ in halves]), 1e-5)
        mean = jax.tree.map(lambda a, b: (a + b) / 2, halves[0][1], halves[1][1])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), stats, mean)
        together = apply(self.whole, self.variables, IMAGES)[0]["head"]
        self.assertGreater(float(jnp.abs(out["head"] - together).max()), 0.01)

    def test_evaluation_knows_no_groups(self):
        first, second = (
            apply(b, self.variables, IMAGES, False) for b in (self.whole, self.grouped)
        )
        jax.tree.map(np.testing.assert_array_equal, first, second)

    def test_one_view_after_another(self):
        views = [IMAGES[:4], IMAGES[4:]]
        outs, stats = jax.jit(lambda v, x: self.whole.apply_each(*v, x))(self.variables, views)
        first, between = apply(self.whole, self.variables, views[0])
        second, after = apply(self.whole, (self.variables[0], between), views[1])
        for out, expected in zip(outs, (first, second), strict=True):
            torch.assert_close(out["head"], expected["head"], 1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, after)

    def test_groups_that_do_not_fit(self):
        with self.assertRaisesRegex(UserError, "3 groups do not divide a batch of 8"):
            branch(bn_groups=3).apply(*self.variables, IMAGES)


if __name__ == "__main__":
    absltest.main()
