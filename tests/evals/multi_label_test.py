"""Protocols on data with several labels per image: against scikit-learn and by hand, and on tiny
data.
"""

import dataclasses
import math

import jax
import numpy as np
from absl.testing import absltest, parameterized
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.label_sets import LabelSets
from ssl_jax.data.label_tables import set_table
from ssl_jax.data.sources import ArraySource
from ssl_jax.data.subset import draw_fraction, draw_labels
from ssl_jax.evals import protocols
from ssl_jax.evals.average_precision import average_precision
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.checks import DoesNotApply, NotMeasurable
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.evals.images import Images, Labelled
from ssl_jax.evals.protocols import knn, svm
from ssl_jax.evals.protocols.fewshot import few_labels
from ssl_jax.evals.protocols.linear import Linear, fit, split
from ssl_jax.evals.titles import titles_of
from ssl_jax.objectives.base import Probe

QUICK = {
    "knn": {"k": 5},
    "fewshot": {"shots": (3,), "fractions": (0.5,), "draws": 2},
    "linear": {"holdout": 0.2},
    "linear_grid": {"rates": (10.0,), "epochs": 20, "batch_size": 16, "holdout": 0.2},
    "logistic": {"count": 3, "holdout": 0.3},
    "svm": {"shots": (2,), "draws": 2, "costs": (0.1,)},
}
MULTI = tuple(QUICK)
OWN = {"classifier"}  # of a method that learns labels, see its test
NAMES = ("cat", "dog", "cow")


def table(count, seed, classes=3, width=6):
    """Draw features, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)).astype(np.float32)
    noise = 0.3 * rng.normal(size=(count, classes))
    return Labelled(x, (x[:, :classes] + noise > 0.3).astype(np.int8))


def source(data, names=NAMES, name="pictures"):
    """Draw one bright column per label."""
    rng = np.random.default_rng(len(data))
    images = rng.integers(0, 60, (len(data), 8, 8, 1))
    images[:, :, : data.shape[1]] += 90 * np.maximum(data, 0)[:, None, :, None]
    out = ArraySource(name, images.astype(np.uint8))
    if len(data):
        set_table(out, data, names)
    else:
        out.class_names, out.label_sets = names, LabelSets.of([])
    return out


def subject(train, test):
    mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
    how = {"view": View(8), "channels": 1, "batch_size": 8, "mesh": mesh}
    return Subject(None, Images.of(train, test, 1000, 1000, **how), Probe())


def measure(name, train, test, **settings):
    protocol = EvalsConfig().protocol(name)
    protocol = dataclasses.replace(protocol, **QUICK.get(name, {}) | settings)
    ((_, numbers),) = measured([protocol], subject(train, test))
    names = {key.removeprefix("eval/") for key in numbers}
    assert titles_of(names, protocol.titles).keys() == names, names
    return numbers


def random(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (count, 3))


class ProtocolsTest(parameterized.TestCase):
    @parameterized.parameters(*MULTI)
    def test_visible_labels_are_ranked_well(self, name):
        numbers = measure(name, source(random(80)), source(random(40, 1)))
        self.assertNotEmpty([k for k in numbers if k.endswith("_map")])
        for key, value in numbers.items():
            self.assertFalse(key.endswith("_top1"), key)
            if not key.endswith(("penalty", "lr", "layer")):
                self.assertGreater(value, 0.85, key)
        if name in ("knn", "linear", "logistic", "svm"):
            self.assertIn(f"eval/{name}_11point", numbers)

    @parameterized.named_parameters(
        *((f"_{name}", name) for name in sorted(set(protocols.known()) - set(MULTI) - OWN))
    )
    def test_others_need_one_label_or_none(self, name):
        protocol = EvalsConfig().protocol(name)
        some = subject(source(random(20)), source(random(20, 1)))
        if protocol.labels:
            self.assertFalse(protocol.applies(some))
            with self.assertRaisesRegex(DoesNotApply, "one label per image; these data have sev"):
                measured([protocol], some)

    @parameterized.parameters(*MULTI)
    def test_classes_of_one_set_only(self, name):
        """A class that no training image shows is ranked by a constant; one that no test image
        shows does not count.
        """
        train, test = random(60), random(40, 1)
        train[:, 1], test[:, 2] = 0, 0
        numbers = measure(name, source(train), source(test))
        for key, value in numbers.items():
            self.assertTrue(math.isfinite(value), key)
        if name == "svm":
            self.assertAlmostEqual(numbers["eval/svm_map"], (1 + test[:, 1].mean()) / 2, delta=0.02)

    @parameterized.parameters(*MULTI)
    def test_classes_go_by_their_names(self, name):
        train, test = random(60), random(40, 1)
        same = measure(name, source(train), source(test))
        moved = source(test)
        set_table(moved, test[:, ::-1].copy(), NAMES[::-1])
        self.assertEqual(measure(name, source(train), moved), same)

    @parameterized.product(name=MULTI, case=["none", "all", "empty", "other"])
    def test_nothing_to_measure(self, name, case):
        train, test = random(30), random(20, 1)
        if case == "none":
            train = np.zeros((30, 3), int)
            train[:, 0] = 1  # the same for all images
        elif case == "all":
            test = np.full((20, 3), -1)
            test[0] = (1, 0, 0)
            train[:, 0] = 0
        elif case == "empty":
            test = test[:0]
        message = {
            "none": "every class is shown by all training images or by none",
            "all": "no evaluation image shows a class that some training images show",
            "empty": "no example to evaluate on",
            "other": "",
        }[case]
        if case == "other":  # a fifth is held out
            self.assertNotEmpty(measure(name, source(train), None))
            return
        with self.assertRaisesRegex(UserError, message):
            measure(name, source(train), source(test))

    @parameterized.parameters(*MULTI)
    def test_unlabelled_images_do_not_count(self, name):
        """Rows of which nothing is known change no number."""
        train, test = random(60), random(40, 1)
        more = np.concatenate([test, np.full((9, 3), -1)])
        padded, plain = source(more), source(test)
        padded._pixels[: len(test)] = plain._pixels
        self.assertEqual(measure(name, source(train), padded), measure(name, source(train), plain))

    def test_fewer_images_than_neighbours(self):
        numbers = measure("knn", source(random(4)), source(random(20, 1)), k=200)
        self.assertTrue(math.isfinite(numbers["eval/knn_map"]))

    def test_more_shots_than_images(self):
        with self.assertRaisesRegex(UserError, r"svm: shots \[50\]: no class has more than"):
            measure("svm", source(random(40)), source(random(20, 1)), shots=(50,))

    def test_texts_of_the_report(self):
        images = subject(source(np.array([[1, 0, 1], [0, 0, 0]])), source(random(5))).images
        self.assertEqual(images.texts(images.train, np.arange(2)), ["cat, cow", ""])


class PiecesTest(parameterized.TestCase):
    def test_linear_is_one_regression_per_class(self):
        train, test = table(80, 0), table(60, 1)
        train.labels[:7, 1] = -1
        (head,) = fit(train, [Linear(weight_decay=1e-2)], 3)
        precisions = []
        for c in range(3):
            labelled = train.labels[:, c] >= 0
            inverse = 1 / (1e-2 * len(train.labels))
            model = LogisticRegression(C=inverse, max_iter=1000)
            model.fit(train.features[labelled], train.labels[labelled, c])
            scores = model.decision_function(test.features)
            np.testing.assert_allclose(head.logits(test.features)[:, c], scores, atol=1e-3)
            precisions.append(average_precision(scores, test.labels[:, c] == 1))
        self.assertAlmostEqual(head.scores(test, "x")["x_map"], np.mean(precisions), places=6)

    def test_gradient_descent_finds_the_same(self):
        train, test = table(200, 0), table(100, 1)
        exact, descended = (
            fit(train, [setting], 3)[0]
            for setting in (
                Linear(weight_decay=1e-2),
                Linear(preset="simclr", lr=50.0, weight_decay=1e-2, batch_size=200, epochs=200),
            )
        )
        np.testing.assert_allclose(
            exact.logits(test.features), descended.logits(test.features), atol=0.02
        )

    def test_labels_that_are_not_known_have_no_gradient(self):
        train = table(60, 0)
        settings = [Linear(preset="simclr", lr=9.0, batch_size=60, epochs=3)]
        labelled = np.full(60, True)
        labelled[::3] = False
        train.labels[~labelled, 0] = -1
        (head,) = fit(train, settings, 3)
        other = Labelled(train.features.copy(), train.labels)
        other.features[~labelled] = 0  # changes classes 1 and 2 alone
        (changed,) = fit(other, settings, 3)
        np.testing.assert_allclose(head.weight[:, 0], changed.weight[:, 0], rtol=1e-5)
        self.assertGreater(np.abs(head.weight[:, 1] - changed.weight[:, 1]).max(), 1e-3)

    def test_votes_by_hand(self):
        train = np.eye(3, dtype=np.float32)
        labels = np.array([[1, 0], [1, 1], [-1, 0]], np.int8)
        test = np.array([[3.0, 2, 1]], np.float32)
        cosines = test[0] / np.linalg.norm(test[0])
        votes = np.exp(cosines / 0.5)
        shares = knn.knn_probabilities(train, labels, test, 2, [3], [0.5])[0, 0, 0]
        np.testing.assert_allclose(shares, [1.0, votes[1] / votes.sum()], rtol=1e-5)

    def test_a_class_that_no_neighbour_knows(self):
        labels = np.array([[-1, 1], [0, 0]], np.int8)
        shares = knn.knn_probabilities(np.eye(2, dtype="f4"), labels, np.eye(2, dtype="f4"), 2, [1])
        np.testing.assert_array_equal(shares[0, 0, 0], [0, 1])

    def test_votes_do_not_depend_on_the_devices(self):
        train, test = table(90, 0), table(21, 1)
        args = (*train, test.features, 3, [7], [0.07])
        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices())
        with jax.set_mesh(mesh):
            many = knn.knn_probabilities(*args, mesh)
        np.testing.assert_allclose(many, knn.knn_probabilities(*args), rtol=1e-6)

    def test_an_svm_per_class(self):
        train, test = table(60, 0), table(60, 1)
        numbers = svm.svm_scores(train, test, [0.5])
        machines = []
        for c in range(3):
            unit = [x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5) for x, _ in (train, test)]
            model = svm._machine(0.5).fit(unit[0], train.labels[:, c] == 1)
            scores = model.decision_function(unit[1])
            machines.append(average_precision(scores, test.labels[:, c] == 1))
        self.assertAlmostEqual(numbers["map"], np.mean(machines), places=12)

    def test_the_svm_learns_difficult_images_as_negatives(self):
        """The authors' script for all labels does so; a draw leaves them out."""
        train, test = table(60, 0), table(60, 1)
        hidden = Labelled(train.features, train.labels.copy())
        hidden.labels[5:15] = -1
        zeros = Labelled(train.features, np.maximum(hidden.labels, 0))
        without = hidden.rows(np.r_[0:5, 15:60])
        for unknown, same in ((True, zeros), (False, without)):
            numbers = svm.svm_scores(hidden, test, [0.5], unknown)
            self.assertEqual(numbers, svm.svm_scores(same, test, [0.5]))

    def test_a_low_shot_draw(self):
        """k positives and (C - 1) k negatives per class, a draw of its own for each."""
        train = table(100, 0)
        train.labels[::9, 0] = -1
        sample = svm._sample(train, 4, 0)
        for c in range(3):
            column = sample.labels[:, c]
            self.assertEqual(((column == 1).sum(), (column == 0).sum()), (4, 8))
            chosen = column >= 0
            np.testing.assert_array_equal(column[chosen], train.labels[chosen, c])
        again, other = svm._sample(train, 4, 0), svm._sample(train, 4, 1)
        np.testing.assert_array_equal(sample.labels, again.labels)
        self.assertTrue((sample.labels != other.labels).any())

    def test_few_labels_of_whole_images(self):
        train, test = table(100, 0), table(60, 1)
        rows = draw_labels(train.labels, 3, 0, 0)
        self.assertLen(np.unique(rows), len(rows))
        self.assertTrue(((train.labels[rows] == 1).sum(axis=0) >= 3).all())
        self.assertLen(draw_fraction(train.labels, 0.1, 0, 0), 10)
        self.assertGreater(few_labels(train, test, [rows]).mean, 0.6)
        self.assertGreater(few_labels(train, test, [np.arange(100)]).mean, 0.9)

    def test_a_held_out_part(self):
        train = table(50, 0)
        rest, held_out = split(train, 0.2, seed=0)
        self.assertEqual((len(rest.labels), len(held_out.labels)), (40, 10))

    def test_exact_area_beside_scikit_learn(self):
        """The envelope lies above the curve that scikit-learn sums."""
        draw = np.random.default_rng(0)
        for _ in range(5):
            positive, scores = draw.random(50) < 0.3, draw.normal(size=50)
            ours = average_precision(scores, positive)
            self.assertGreaterEqual(ours + 1e-12, average_precision_score(positive, scores))


class ImagesTest(absltest.TestCase):
    def test_classes_of_which_a_set_knows_nothing(self):
        train, test = source(random(6)), source(random(4, 1)[:, :2], ("dog", "bird"))
        images = subject(train, test).images
        self.assertEqual(images.class_names, (*NAMES, "bird"))
        targets = images.targets(images.test, np.arange(4))
        np.testing.assert_array_equal(targets[:, [1, 3]], random(4, 1)[:, :2])
        np.testing.assert_array_equal(targets[:, [0, 2]], -1)

    def test_single_labels_go_first(self):
        """`noisy_digits` has both: the true digit, and the noisy labels to learn from."""
        train = source(random(6))
        train.labels = np.zeros(6, np.int32)
        self.assertFalse(subject(train, source(random(4))).multi)

    def test_a_set_without_labels(self):
        bare = ArraySource("bare", np.zeros((4, 8, 8, 1), np.uint8))
        with self.assertRaisesRegex(NotMeasurable, "labels of training and evaluation images"):
            measure("knn", source(random(6)), bare)


if __name__ == "__main__":
    absltest.main()
