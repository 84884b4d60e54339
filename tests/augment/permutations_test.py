"""Permutation sets against the statistics of the released greedy choice."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.augment.permutations import distant_permutations
from ssl_jax.core.errors import UserError


def distances(permutations):
    each = (permutations[:, None] != permutations[None]).sum(-1)
    return each[np.triu_indices(len(permutations), 1)]


class PermutationsTest(parameterized.TestCase):
    # Numbers of differing places: those of 64 and 100 permutations of nine do not depend on the
    # first.
    @parameterized.parameters(
        ("mean", 64, 2, 8.125), ("mean", 100, 2, 8.08), ("min", 64, 7, 8.12), ("min", 100, 6, 8.08)
    )
    def test_nine_tiles(self, criterion, count, least, mean):
        made = distant_permutations(9, count, criterion, seed=3)
        np.testing.assert_array_equal(np.sort(made, axis=1), [range(9)] * count)
        distance = distances(made)
        self.assertEqual((distance.min(), distance.max()), (least, 9))
        self.assertAlmostEqual(distance.mean(), mean, delta=0.006)
        self.assertEqual(distances(made[:9]).min(), 9)  # a Latin square

    def test_all_of_few_tiles(self):
        for criterion in ("mean", "min"):
            made = distant_permutations(4, 24, criterion)
            self.assertEqual({tuple(p) for p in made}, set(itertools.permutations(range(4))))

    def test_a_function_of_its_arguments(self):
        a, b = distant_permutations(5, 20), distant_permutations(5, 20, seed=1)
        distant_permutations.cache_clear()
        np.testing.assert_array_equal(a, distant_permutations(5, 20))
        self.assertTrue((a != b).any())
        with self.assertRaises(ValueError):
            a[0, 0] = 1

    @parameterized.parameters(
        (16, 5, "got 16"), (4, 25, "1 to 24, got 25"), (4, 0, "1 to 24, got 0")
    )
    def test_user_errors(self, length, count, message):
        with self.assertRaisesRegex(UserError, message):
            distant_permutations(length, count)


if __name__ == "__main__":
    absltest.main()
