"""Logistic regression reaches its optimum where 1000 steps of L-BFGS do not."""

import warnings

import numpy as np
from absl.testing import absltest
from sklearn.linear_model import LogisticRegression

from ssl_jax.data.sources import open_source
from ssl_jax.evals.linear_head import logistic_regression


def gradient(model: LogisticRegression, x: np.ndarray, labels: np.ndarray) -> float:
    """Return the largest entry of the gradient of the penalised loss, a sum over the rows."""
    logits = x @ model.coef_.T + model.intercept_
    p = np.exp(logits - logits.max(1, keepdims=True))
    error = p / p.sum(1, keepdims=True) - np.eye(len(model.classes_))[labels]
    return max(abs(error.T @ x + model.coef_).max(), abs(error.sum(0)).max())


class LogisticRegressionTest(absltest.TestCase):
    def test_one_photo_per_class(self):
        photos = open_source("photos")
        _, rows = np.unique(photos.labels, return_index=True)
        pixels = np.stack([photos.read(i) for i in rows]).reshape(len(rows), -1)
        x = (pixels - pixels.mean(0)) / (pixels.std(0) + 1e-3)
        x, labels = x @ np.linalg.qr(x.T)[0], np.arange(len(rows))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it warns of nothing
            model = logistic_regression(x, labels)
            with self.assertRaisesRegex(Warning, "failed to converge"):
                LogisticRegression(max_iter=1000).fit(x, labels)
        self.assertLess(gradient(model, x, labels), 2e-3)

    def test_an_easy_problem_keeps_the_solution_of_l_bfgs(self):
        rng = np.random.default_rng(0)
        x, labels = rng.normal(size=(60, 5)), np.arange(60) % 3
        want = LogisticRegression(C=1.0, max_iter=1000).fit(x, labels)
        np.testing.assert_array_equal(logistic_regression(x, labels).coef_, want.coef_)


if __name__ == "__main__":
    absltest.main()
