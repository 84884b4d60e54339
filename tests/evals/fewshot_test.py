"""Few-label linear: equal to the written-out protocol, deterministic, small classes."""

import numpy as np
from absl.testing import absltest, parameterized
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_jax.core.errors import UserError
from ssl_jax.evals.fewshot import draw_labels, fewshot_linear


def blobs(n, seed, classes=3, dim=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    points = 50 + 3 * (centres[labels] + 0.7 * rng.normal(size=(n, dim)))
    return points.astype(np.float32), labels


class FewShotTest(parameterized.TestCase):
    def setUp(self):
        self.train, self.test = blobs(90, 0), blobs(60, 1)

    def test_equals_the_protocol_written_out(self):
        out = fewshot_linear(*self.train, *self.test, shots=(1, 4), draws=5, seed=3)
        (x, y), (test, test_y) = self.train, self.test
        scaler = StandardScaler().fit(x.astype(np.float64))
        for n in (1, 4):
            accuracies = []
            for draw in range(5):
                rows = draw_labels(y, n, 3, draw)
                np.testing.assert_array_equal(np.bincount(y[rows]), n)
                model = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000)
                model.fit(scaler.transform(x[rows]), y[rows])
                accuracies.append(make_pipeline(scaler, model).score(test, test_y))
            np.testing.assert_allclose(out[n].accuracies, accuracies, atol=1e-12)
            np.testing.assert_allclose(out[n].mean, np.mean(accuracies))
            np.testing.assert_allclose(out[n].standard_error, np.std(accuracies, ddof=1) / 5**0.5)

    def test_a_function_of_the_seed(self):
        one, same, other = (
            fewshot_linear(*self.train, *self.test, shots=(2,), draws=6, seed=s)[2].accuracies
            for s in (0, 0, 1)
        )
        np.testing.assert_array_equal(one, same)
        self.assertTrue(np.any(one != other))

    def test_draws_do_not_depend_on_features_and_differ(self):
        labels = self.train[1]
        rows = [draw_labels(labels, 3, 0, d) for d in range(4)]
        for r in rows:
            self.assertEqual(len(np.unique(r)), 9)
        self.assertEqual(len({tuple(sorted(r)) for r in rows}), 4)

    def test_invariant_to_shift_and_scale_of_each_dimension(self):
        (x, y), (test, test_y) = self.train, self.test
        scale, shift = np.float32([1, 2, 4, 8, 16]), np.float32([0, 1, -2, 30, 4])
        plain = fewshot_linear(x, y, test, test_y, shots=(3,), draws=4)[3]
        moved = fewshot_linear(x * scale + shift, y, test * scale + shift, test_y, (3,), 4)[3]
        np.testing.assert_array_equal(moved.accuracies, plain.accuracies)

    def test_a_small_class_gives_all_it_has(self):
        labels = np.array([0] * 20 + [1] * 2 + [2] * 20)
        np.testing.assert_array_equal(
            np.bincount(labels[draw_labels(labels, 10, 0, 0)]), [10, 2, 10]
        )

    def test_a_constant_dimension_is_harmless(self):
        (x, y), (test, test_y) = self.train, self.test
        x, test = (np.concatenate([a, np.ones_like(a[:, :1])], axis=1) for a in (x, test))
        plain = fewshot_linear(*self.train, *self.test, shots=(3,), draws=2)[3]
        more = fewshot_linear(x, y, test, test_y, shots=(3,), draws=2)[3]
        np.testing.assert_array_equal(more.accuracies, plain.accuracies)

    def test_one_draw_has_no_spread(self):
        out = fewshot_linear(*self.train, *self.test, shots=(3,), draws=1)[3]
        self.assertEqual(out.standard_error, 0.0)

    @parameterized.parameters(({"shots": (0,)},), ({"shots": ()},), ({"draws": 0},))
    def test_bad_settings(self, kwargs):
        with self.assertRaisesRegex(UserError, "must be 1 or more"):
            fewshot_linear(*self.train, *self.test, **kwargs)

    def test_one_class(self):
        x, y = self.train
        with self.assertRaisesRegex(UserError, "two classes"):
            fewshot_linear(x, 0 * y, x, 0 * y)


if __name__ == "__main__":
    absltest.main()
