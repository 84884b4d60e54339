import jax
import numpy as np
from absl.testing import absltest, parameterized
from sklearn.linear_model import LogisticRegression

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource, open_source
from ssl_jax.evals.base import Subject
from ssl_jax.evals.images import Images, Labelled
from ssl_jax.evals.protocols.linear import regularisation_path, split
from ssl_jax.evals.protocols.logistic import Logistic
from ssl_jax.objectives.base import Probe


def subject(source, most=150):
    mesh = jax.make_mesh((1, 1, 1), ("replica", "data", "fsdp"))
    rest = dict(view=View(8), channels=1, batch_size=64, mesh=mesh)
    return Subject(None, Images.of(source, None, most, 100, **rest), Probe())


class LogisticTest(parameterized.TestCase):
    @parameterized.parameters("kornblith", "dinov2")
    def test_equals_a_loop_over_scikit_learn(self, preset):
        pixels = subject(open_source("digits"))
        protocol = Logistic(preset=preset, count=5, holdout=0.2)
        numbers = protocol.measure(pixels)
        train, test = pixels.train(protocol), pixels.test(protocol)
        rest, held_out = split(train, 0.2, 0)
        scores = {}
        for power in np.linspace(5, -6, 5):
            penalty = 10**power
            c = 1 / penalty if preset == "kornblith" else penalty
            scale = len(rest.labels) if preset == "kornblith" else 1
            model = LogisticRegression(C=c / scale, max_iter=1000).fit(*rest)
            scores[power] = model.score(*held_out)
        order = scores if preset == "kornblith" else sorted(scores)  # the strongest penalty first
        best = max(order, key=scores.get)
        self.assertAlmostEqual(numbers["logistic_log10_penalty"], best)
        self.assertAlmostEqual(numbers["logistic_holdout_top1"], scores[best])
        c = 1 / 10**best / len(train.labels) if preset == "kornblith" else 10**best
        model = LogisticRegression(C=c, max_iter=1000).fit(*train)
        self.assertAlmostEqual(numbers["logistic_top1"], model.score(*test))

    def test_one_solution_from_the_other(self):
        """Each ends where it would alone."""
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 60)
        train = Labelled(np.float32(rng.normal(size=(60, 4)) + labels[:, None]), labels)
        path = regularisation_path(train, np.array([1e-3, 1e-1, 10.0]), 5)
        for c, head in zip((1e-3, 1e-1, 10.0), path, strict=True):
            (alone,) = regularisation_path(train, np.array([c]), 5)
            np.testing.assert_allclose(head.weight, alone.weight, atol=2e-3)
        self.assertTrue(np.all(path[0].bias[3:] == -np.inf))  # classes that do not occur

    def test_errors(self):
        with self.assertRaisesRegex(UserError, "logistic.count: expected .* of at least 1"):
            Logistic(count=0)
        with self.assertRaisesRegex(UserError, r"logistic.holdout: expected a number in \(0, 1\)"):
            Logistic(holdout=0)
        images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
        few = ArraySource("few", images, np.arange(5) % 2)
        with self.assertRaisesRegex(UserError, "4 training examples are too few"):
            Logistic().measure(subject(few))


if __name__ == "__main__":
    absltest.main()
