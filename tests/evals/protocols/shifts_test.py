import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource, open_source
from ssl_jax.evals.base import Subject
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.classifiers import TrainedClassifier, trained
from ssl_jax.evals.images import Images, Part
from ssl_jax.evals.protocols.knn import Knn
from ssl_jax.evals.protocols.linear import Linear
from ssl_jax.evals.protocols.shifts import Shifts, restricted
from ssl_jax.evals.shifted_sets import ShiftedSet
from ssl_jax.nets.features import Features, Stage
from ssl_jax.nets.functional import Net
from ssl_jax.objectives.base import Encoder, Probe


def digits(test=None):
    mesh = jax.make_mesh((1, 1, 1), ("replica", "data", "fsdp"))
    rest = dict(view=View(8), channels=1, batch_size=64, mesh=mesh)
    images = Images.of(open_source("digits"), test, 300, 100, **rest)
    return Subject(None, images, Probe())


class ShiftsTest(parameterized.TestCase):
    @parameterized.parameters(("linear", Linear()), ("knn", Knn()), ("dino", Linear(preset="dino")))
    def test_it_is_the_protocol_of_the_classifier(self, classifier, plain):
        """The numbers are those of `linear` or `knn` with the shifted set as evaluation data."""
        subject = digits()
        sets = ("shifted_digits:contrast-2", "black_on_white=digits:inverted")
        numbers = Shifts(sets=sets, classifier=classifier, examples=100).measure(subject)
        name = plain.name()
        clean = plain.measure(subject)
        self.assertAlmostEqual(numbers["shifts_clean_top1"], clean[f"{name}_top1"])
        for key, spec in (("contrast_2", sets[0]), ("black_on_white", "digits:inverted")):
            part = Part(source := open_source(spec, "eval"), np.arange(len(source))).some(100)
            images = dataclasses.replace(subject.images, test=part)
            expected = plain.measure(Subject(None, images, Probe()))
            for metric in ("top1", "mean_per_class", "top5"):
                value = numbers[f"shifts_{key}_{metric}"]
                self.assertAlmostEqual(value, expected[f"{name}_{metric}"], msg=f"{key} {metric}")
            self.assertEqual(numbers[f"shifts_{key}_clean_top1"], numbers["shifts_clean_top1"])
        both = [numbers["shifts_contrast_2_top1"], numbers["shifts_black_on_white_top1"]]
        self.assertAlmostEqual(numbers["shifts_top1"], np.mean(both))

    def test_restricted_by_hand(self):
        scores = np.array([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 5.0, 2.0]])
        out = restricted(scores, np.array([1, 3]))
        np.testing.assert_array_equal(out.argmax(1), [1, 3])
        np.testing.assert_array_equal(np.isfinite(out).sum(1), [2, 2])

    def test_a_subset_of_the_classes(self):
        """Predictions are restricted to the classes of the set, which it numbers by itself."""
        source = open_source("digits", "eval")
        rows = np.flatnonzero(np.isin(source.labels, (3, 8)))
        part = ArraySource(
            "two", source.arrays[rows], (source.labels[rows] == 3).astype(int), ("eight", "three")
        )
        path = self.create_tempdir().full_path + "/two.npz"
        np.savez(path, images=part.arrays[..., 0], labels=source.labels[rows])
        subject = digits()
        numbers, free = (
            Shifts(sets=(f"two=npz:{path}",), restrict=r).measure(subject) for r in (True, False)
        )
        shifted = ShiftedSet(part, np.array([8, 3]))
        data = shifted.read(subject, Probe(), 1000)
        scores = trained("linear", Shifts(), subject).scores(data.features)
        two = np.array([3, 8])[scores[:, [3, 8]].argmax(1)]
        self.assertAlmostEqual(numbers["shifts_two_top1"], np.mean(two == data.labels))
        self.assertAlmostEqual(free["shifts_two_top1"], np.mean(scores.argmax(1) == data.labels))
        self.assertGreater(numbers["shifts_two_top1"], free["shifts_two_top1"])
        self.assertGreaterEqual(numbers["shifts_two_clean_top1"], free["shifts_two_clean_top1"])
        self.assertNotIn("shifts_two_top5", numbers)

    def test_a_neighbour_of_no_class_of_the_set_is_no_vote(self):
        votes = TrainedClassifier(
            lambda rows: np.array([[0.6, 0.4, 0.0], [0.0, 0.0, 1.0]]), votes=True
        )
        possible = restricted(votes.possible(np.zeros((2, 1))), np.array([0, 1]))
        np.testing.assert_array_equal(np.isfinite(possible), [[True, True, False], [False] * 3])
        linear = TrainedClassifier(lambda rows: np.array([[0.0, np.log(3)]]))
        np.testing.assert_allclose(linear.probabilities(np.zeros((1, 1))), [[0.25, 0.75]])

    def test_scores_that_are_no_numbers(self):
        broken = TrainedClassifier(lambda rows: np.array([[0.0, np.nan], [-np.inf, 1.0]]))
        for scores in (broken.possible, broken.probabilities):
            with self.assertRaisesRegex(NotMeasurable, "scores of 1 of 2 images are NaN"):
                scores(np.zeros((2, 1)))

    def test_it_is_trained_once(self):
        subject = digits()
        first, again = (trained("linear", Shifts(examples=n), subject) for n in (1, 2))
        self.assertIs(first, again)
        self.assertIsNot(first, trained("knn", Shifts(), subject))
        self.assertIsNot(first, trained("linear", Shifts(), digits()))

    def test_what_cannot_be_measured(self):
        subject = digits()
        self.assertFalse(Shifts().applies(subject))
        with self.assertRaisesRegex(UserError, "expected KIND-SEVERITY, KIND one of noise, blur"):
            Shifts(sets=("shifted_digits:noise-4",)).check(subject)
        with self.assertRaisesRegex(
            UserError, "class 'temple 1-1' and 19 more is not among the 10"
        ):
            Shifts(sets=("photos",)).check(subject)
        with self.assertRaisesRegex(UserError, "shifts.sets: two sets are called 'digits'"):
            Shifts(sets=("digits", "digits")).check(subject)

    def test_broken_features(self):
        """Images without content, and features that are not finite."""
        blank = ArraySource("blank", np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 10)
        with self.assertRaisesRegex(NotMeasurable, "blank: raw pixels of all 20 images are zero"):
            ShiftedSet(blank, np.arange(10)).read(digits(), Probe(), 100)
        net = Net(lambda key: ({}, {}), not_a_number, "broken")
        subject = Subject(Encoder({}, {}, net), digits().images, Probe(pool="pooled"))
        with self.assertRaisesRegex(NotMeasurable, "features of 20 of 20 images are not finite"):
            ShiftedSet(blank, np.arange(10)).read(subject, subject.probe, 100)


def not_a_number(params, stats, x, **_):
    out = Features(
        pooled=x.mean((1, 2)) * jnp.nan, map=x, cls=None, stages=(Stage(name="one", map=x),)
    )
    return out, stats


if __name__ == "__main__":
    absltest.main()
