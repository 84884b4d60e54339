import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.cli.experiment import Experiment, load_config
from ssl_jax.core.errors import UserError
from ssl_jax.data.fraction import fraction
from ssl_jax.data.sources import ArraySource, open_source


class FractionTest(parameterized.TestCase):
    def test_a_smaller_share_is_a_part_of_a_larger_one(self):
        pixels = np.arange(200, dtype=np.uint8)[:, None, None, None]
        source = ArraySource("set", pixels, np.arange(200) // 20)
        small, large = fraction(source, 0.1), fraction(source, 0.5)
        seen = [[int(part.read(i)[0, 0, 0]) for i in range(len(part))] for part in (small, large)]
        self.assertEqual([len(rows) for rows in seen], [20, 100])
        self.assertLess(set(seen[0]), set(seen[1]))
        self.assertEqual(seen[0], sorted(set(seen[0])))
        self.assertGreater(len(set(small.labels)), 5)  # random, not the first
        np.testing.assert_array_equal(small.labels, np.array(seen[0]) // 20)
        np.testing.assert_array_equal(small.arrays[:, 0, 0, 0], seen[0])
        self.assertEqual(small.fingerprint(), fraction(source, 0.1).fingerprint())
        self.assertNotEqual(small.fingerprint(), large.fingerprint())
        self.assertIs(fraction(source, 1.0), source)

    def test_a_run_trains_on_it_and_is_judged_with_all(self):
        config = load_config("simclr:digits")
        config["data"]["fraction"], config["train"]["batch_size"] = 0.25, 32
        made = Experiment.from_config(config)
        self.assertEqual(made.spec.num_examples, round(0.25 * 1437))
        self.assertLen(made.evals_source, 1437)
        (view,) = next(made.batches(0, 1))["views"]
        self.assertLen(view, 32)

    @parameterized.parameters(0.0, -1.0, 1.5, 1e-5)
    def test_what_is_wrong_is_said(self, share):
        with self.assertRaisesRegex(UserError, r"data.fraction: .* expected a share in \(0, 1\]"):
            fraction(open_source("digits"), share)


if __name__ == "__main__":
    absltest.main()
