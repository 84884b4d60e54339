"""Classifiers of several labels per image: labels, scores and predictions by hand, and errors."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from absl.testing import absltest, parameterized
from sklearn.metrics import log_loss as reference_loss

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs
from ssl_jax.data.label_tables import set_table
from ssl_jax.data.pipeline import check_one_label
from ssl_jax.data.sources import ArraySource
from ssl_jax.evals import calibration
from ssl_jax.report import label_sets as report
from ssl_jax.run import classifier as classifiers
from ssl_jax.run import finetuning, scoring_sets, table_files
from ssl_jax.run.classifier import ImageClassifier, indicators
from ssl_jax.run.commands.finetune import Candidate
from ssl_jax.run.commands.predict import settings_of
from ssl_jax.run.label_predictions import LabelPredictions
from ssl_jax.run.probing import Measured, Sets

NAMES = ("cat", "dog", "cow")
TABLE = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, -1, 0]])
LOGITS = np.array([[2.0, -1, 1], [-2, 3, -1], [-1, -2, -3], [1, 0.5, 0.2]], np.float32)


def source(table=TABLE, names=NAMES):
    out = ArraySource("pets", np.zeros((len(table), 4, 4, 1), np.uint8))
    set_table(out, np.asarray(table), names)
    return out


def single(labels=(0, 1, 0, 1)):
    return ArraySource("digits", np.zeros((len(labels), 4, 4, 1), np.uint8), np.array(labels))


def classifier(several=True, temperature=1.0):
    kernel, bias = np.zeros((2, 3), np.float32), np.zeros(3, np.float32)
    return ImageClassifier(None, kernel, bias, NAMES, temperature, 4, several)


class LabelsTest(parameterized.TestCase):
    def test_classes_go_by_their_names(self):
        own = indicators(source(names=("cow", "cat", "owl")), np.array([0, 3]), NAMES)
        np.testing.assert_array_equal(own, [[0, -1, 1], [-1, -1, 1]])
        numbered = indicators(source(names=("a", "b", "c")), np.arange(4), NAMES)
        np.testing.assert_array_equal(numbered, TABLE)
        np.testing.assert_array_equal(indicators(single(), np.arange(2), NAMES), -np.ones((2, 3)))

    def test_what_can_be_fine_tuned(self):
        finetuning.check_labels(source())
        finetuning.check_alike(source(), source())
        with self.assertRaisesRegex(UserError, "pets has several labels per image and digits one"):
            finetuning.check_alike(source(), single())
        with self.assertRaisesRegex(UserError, "1 classes, and an image shows at most 1"):
            finetuning.check_labels(source(TABLE[:, :1], NAMES[:1]))

    def test_a_method_of_one_label_is_refused(self):
        """Without a label in the batch it would learn nothing."""
        check_one_label(Inputs(label=True), single())
        check_one_label(Inputs(labels=2), source())
        with self.assertRaisesRegex(UserError, "pets has several .* --config.objective.labels=2"):
            check_one_label(Inputs(label=True), source())

    def test_settings_of_the_other_kind_are_refused(self):
        flags = SimpleNamespace(top=None, threshold=None)
        self.assertEqual(settings_of(flags, classifier(), "C"), (3, 0.5))
        with self.assertRaisesRegex(UserError, "--top=2: C gives an image all labels from a conf"):
            settings_of(SimpleNamespace(top=2, threshold=None), classifier(), "C")
        with self.assertRaisesRegex(UserError, "--threshold=0.3: the classes of C exclude"):
            settings_of(SimpleNamespace(top=None, threshold=0.3), classifier(False), "C")

    def test_the_description_in_the_file(self):
        single = json.loads(classifiers.metadata(NAMES, 1.0, 4))
        self.assertEqual(single, {"classes": list(NAMES), "temperature": 1.0, "side": 4})
        self.assertTrue(json.loads(classifiers.metadata(NAMES, 1.0, 4, True))["several"])


class ScoresTest(parameterized.TestCase):
    def test_the_loss_is_the_binary_one_of_known_labels(self):
        known = TABLE >= 0
        chance = calibration.probabilities(LOGITS, 2.0, several=True)
        np.testing.assert_allclose(chance, 1 / (1 + np.exp(-LOGITS / 2)), rtol=1e-6)
        expected = reference_loss(TABLE[known], chance[known])
        self.assertAlmostEqual(calibration.log_loss(LOGITS, TABLE, 2.0), expected, places=6)

    def test_the_temperature_of_sigmoids(self):
        rng = np.random.default_rng(0)
        z = rng.normal(size=(4000, 3))
        labels = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.int8)
        self.assertAlmostEqual(calibration.fit_temperature(3 * z, labels), 3, delta=0.2)

    def test_a_candidate(self):
        held = Measured(TABLE, LOGITS, np.arange(4))
        candidate = Candidate.of(7, held)
        self.assertEqual(candidate.score, {"map": 1.0})
        self.assertEqual([*candidate.numbers()], ["name", "step", "temperature", "map", "loss"])
        self.assertIsNone(Candidate.of(7, held._replace(logits=LOGITS * np.nan)))

    def test_numbers_files_and_page(self):
        sets = Sets(source(), None, source())
        test = Measured(TABLE, LOGITS, np.arange(4))
        flat = Measured(TABLE, -LOGITS, np.arange(4))
        others = {"linear_probe": flat.summary(), "untrained": flat.summary()}
        numbers = scoring_sets.score(classifier(), test, others, sets)
        numbers |= {"chosen": "step 3", "candidates": [], "choice": "The last one."}
        self.assertEqual(numbers["scores"]["classifier"], {"map": 1, "11point": 1, "total": 4})
        chance = (2 / 4 + 1 / 3 + 1 / 4) / 3
        self.assertAlmostEqual(numbers["scores"]["chance"]["map"], chance)
        cow = numbers["classes"][2]
        self.assertEqual((cow["precision"], cow["recall"], cow["test"]), (1 / 2, 1, 1))
        folder = Path(self.create_tempdir().full_path)
        scoring_sets.write(folder, classifier(), test, sets, numbers)
        self.assertEqual(json.loads((folder / "classifier.json").read_text()), numbers)
        lines = (folder / "predictions.csv").read_text().replace('"', "").splitlines()
        self.assertIn("cat;cow,cat;cow", lines[1])
        facts = {"labelled images": "<i>pets</i>"}
        scoring_sets.write_page(folder / "p.html", classifier(), test, sets, numbers, facts, "f")
        page = (folder / "p.html").read_text()
        self.assertIn("mean average precision 1.000 on 4 test images", page)
        self.assertNotIn("<i>pets", page)

    def test_the_page_of_undefined_numbers(self):
        row = {"name": "cat", "average_precision": None, "precision": None, "recall": None}
        outcome = report.SetsOutcome({}, [], [row | {"test": 0, "train": 3}], {}, [])
        self.assertIn(">-<", report.render(outcome, ("", ""), "t", "l", "f"))


class PredictionsTest(parameterized.TestCase):
    def predictions(self, threshold=0.5, images=None):
        return LabelPredictions.of(
            classifier(), images or source(), LOGITS, np.arange(4), threshold
        )

    def test_all_labels_above_the_threshold_the_surest_first(self):
        columns = self.predictions().columns(classifier())
        self.assertEqual(columns["labels"], [["cat", "cow"], ["dog"], [], ["cat", "dog", "cow"]])
        np.testing.assert_allclose(columns["confidences"][0], 1 / (1 + np.exp([-2.0, -1.0])))
        self.assertEqual(columns["true_labels"], [["cat", "cow"], ["dog"], [], ["cat"]])
        few = self.predictions(0.9).columns(classifier())
        self.assertEqual(few["labels"], [[], ["dog"], [], []])

    def test_summary_and_classes(self):
        some = self.predictions()
        lines = some.summary(classifier(), source())
        self.assertEqual(lines[0], "4 images: cat 2, dog 2, cow 2")
        self.assertIn("1.50 labels per image, 1 images without any", lines[1])
        self.assertIn("own labels 1.000", lines[2])
        cat, dog, _ = some.by_class()
        self.assertEqual((cat.rows.tolist(), cat.correct.tolist()), ([0, 3], [1, 1]))
        self.assertEqual((dog.rows.tolist(), dog.correct.tolist()), ([1, 3], [1, -1]))
        self.assertEqual(self.predictions(1.0).by_class(), [])

    def test_images_without_labels(self):
        bare = ArraySource("bare", np.zeros((4, 4, 4, 1), np.uint8))
        some = self.predictions(images=bare)
        self.assertNotIn("true_labels", some.columns(classifier()))
        self.assertEqual(set(some.by_class()[0].correct), {-1})

    @parameterized.parameters(".csv", ".json", ".parquet")
    def test_lists_in_tables(self, suffix):
        file = Path(self.create_tempdir().full_path) / f"t{suffix}"
        table_files.write(file, {"name": ["a", "b"], "labels": [["x", "y"], []]})
        if suffix == ".csv":
            self.assertEqual(file.read_text(), '"name","labels"\n"a","x;y"\n"b",""\n')
        elif suffix == ".json":
            self.assertEqual(json.loads(file.read_text())[0]["labels"], ["x", "y"])


if __name__ == "__main__":
    absltest.main()
