"""Few-label linear: equal to the written-out protocol, deterministic, small classes, lists."""

from pathlib import Path

import jax
import numpy as np
from absl.testing import absltest, parameterized
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.data.sources import ArraySource
from ssl_jax.data.subset import draw_fraction, draw_labels
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.images import Images, Labelled
from ssl_jax.evals.protocols.fewshot import FewShot, few_labels, fewshot_linear
from ssl_jax.objectives.base import Probe


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

    def test_fractions_are_even_over_the_classes(self):
        """Like the lists of ImageNet: 1.28 m images give 12,811 and 12 or 13 per class."""
        labels = np.repeat(np.arange(4), (50, 60, 3, 87))
        # The classes give 3, 3, 2, 2 of round(share 200) = 10; of 40: 13, 12, 12, and all 3.
        for share, least, most in ((0.05, 2, 3), (0.2, 12, 13), (0.001, 1, 1)):
            rows = draw_fraction(labels, share, 0, 0)
            counts = np.bincount(labels[rows], minlength=4)
            self.assertLen(np.unique(rows), len(rows))
            self.assertBetween(min(np.delete(counts, 2)), least, most)
            self.assertBetween(max(np.delete(counts, 2)), least, most)
            self.assertBetween(counts[2], min(least, 3), min(most, 3))
        self.assertLen(draw_fraction(labels, 0.05, 0, 0), 10)
        np.testing.assert_array_equal(
            draw_fraction(labels, 0.05, 0, 1), draw_fraction(labels, 0.05, 0, 1)
        )
        extra = {tuple(np.bincount(labels[draw_fraction(labels, 0.05, 0, d)])) for d in range(9)}
        self.assertGreater(len(extra), 1)  # the classes that give one more are random

    def test_a_subset_of_examples_of_their_own(self):
        train, test = Labelled(*self.train), Labelled(*self.test)
        rows = draw_labels(train.labels, 4, 0, 0)
        own = Labelled(train.features[rows], train.labels[rows])
        self.assertEqual(few_labels(train, test, [rows]).mean, few_labels(train, test, [own]).mean)

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
        with self.assertRaisesRegex(UserError, "one class only"):
            fewshot_linear(x, 0 * y, x, 0 * y)


class ProtocolTest(parameterized.TestCase):
    """On raw pixels, 60 for training and 30 for evaluation, or a fifth of the 60."""

    def subject(self, evaluation=True, max_train=1000):
        draw = np.random.default_rng(0)

        def source(count):
            labels = np.arange(count) % 3
            images = draw.integers(0, 100, (count, 4, 4, 1)) + 40 * labels[:, None, None, None]
            data = ArraySource("squares", images.astype(np.uint8), labels)
            data.names = [f"{c}/{i}.png" for i, c in enumerate(labels)]
            return data

        mesh = sharding.make_mesh(sharding.MeshConfig(), jax.devices()[:1])
        how = {"view": View(4), "channels": 1, "batch_size": 16, "mesh": mesh}
        test = source(30) if evaluation else None
        return Subject(None, Images.of(source(60), test, max_train, 1000, **how), Probe())

    def test_all_three_kinds(self):
        path = Path(self.create_tempdir().full_path) / "ten.txt"
        path.write_text("".join(f"{i}.png 7\n" for i in range(30, 40)))
        subject = self.subject(max_train=20)  # without the list's examples
        settings = FewShot(shots=(2,), fractions=(0.3,), lists=(str(path),), draws=2)
        numbers = settings.measure(subject)
        self.assertEqual(list(numbers), ["fewshot2_top1", "fewshot30pct_top1", "fewshot_ten_top1"])
        rows = np.arange(30, 40)
        pixels = subject.images.train.source.arrays[rows].reshape(10, -1) / np.float32(255)
        own = Labelled(pixels, rows % 3)
        expected = few_labels(subject.train(settings), subject.test(settings), [own]).mean
        self.assertEqual(numbers["fewshot_ten_top1"], expected)

    def test_a_bad_list_fails_before_images_are_read(self):
        subject = self.subject()
        with self.assertRaisesRegex(UserError, "list /nowhere"):
            list(measured([FewShot(), FewShot(lists=("/nowhere",))], subject))
        self.assertEmpty(subject._read)

    def test_a_list_does_not_show_what_is_held_out(self):
        path = Path(self.create_tempdir().full_path) / "all.txt"
        path.write_text("".join(f"{i}.png\n" for i in range(60)))
        subject = self.subject(evaluation=False)
        listed = FewShot(lists=(str(path),))._listed(subject, str(path))
        self.assertLen(listed.labels, 48)
        path.write_text("".join(f"{i}.png\n" for i in subject.images.test.rows[:2]))
        with self.assertRaisesRegex(UserError, "no example"):
            FewShot(lists=(str(path),)).measure(subject)

    @parameterized.parameters({"shots": ()}, {"fractions": (0.0,)}, {"fractions": (1.5,)})
    def test_bad_settings(self, **settings):
        with self.assertRaisesRegex(UserError, "fewshot(: give|.* expected)"):
            FewShot(**settings)


if __name__ == "__main__":
    absltest.main()
