import chex
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError

PARAMS = {
    "a": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)},
    "b": {"kernel": jnp.full((4,), 2.0)},
}


class TreeTest(parameterized.TestCase):
    def test_names_are_paths(self):
        self.assertEqual(list(tree.named_leaves(PARAMS)), ["a/bias", "a/kernel", "b/kernel"])

    def test_first_matching_rule_wins(self):
        rules = [("bias$", 0), ("^a/", 1), (".*", 2)]
        self.assertEqual(
            tree.match(rules, PARAMS), {"a": {"kernel": 1, "bias": 0}, "b": {"kernel": 2}}
        )

    def test_an_uncovered_leaf_is_an_error(self):
        with self.assertRaisesRegex(UserError, "no rule covers 'b/kernel'"):
            tree.match([("^a/", 1)], PARAMS)

    def test_a_bad_pattern_is_an_error(self):
        with self.assertRaisesRegex(UserError, r"'\(' is not a regular expression"):
            tree.match([("(", 1)], PARAMS)

    def test_ema_norm_count_finite(self):
        zeros = {"x": jnp.zeros(2)}
        ones = {"x": jnp.ones(2)}
        chex.assert_trees_all_close(tree.ema(zeros, ones, 0.9), {"x": jnp.full(2, 0.1)}, rtol=1e-6)
        self.assertAlmostEqual(float(tree.global_norm(PARAMS)), np.sqrt(6 + 16), places=6)
        self.assertEqual(tree.count(PARAMS), 13)
        self.assertTrue(tree.all_finite(PARAMS))
        self.assertFalse(tree.all_finite({"x": jnp.array([1.0, np.nan])}))
        self.assertFalse(tree.all_finite({"i": jnp.array([1]), "x": jnp.array([np.inf])}))


if __name__ == "__main__":
    absltest.main()
