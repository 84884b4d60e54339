"""A classifier from a tiny run: its files, its predictions, resuming, copies and odd images."""

import csv
import json
import tempfile
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from sklearn.datasets import load_digits

import ssl_jax
from ssl_jax.run.commands import duplicates, finetune
from tests.cli.safety_test import call

TINY = {
    "backbone.width": 4,
    "objective.projector": (8, 8),
    "train.steps": 2,
    "train.batch_size": 32,
    "evals.every": -1,
}
NAMES = ("zero", "<b>one</b>", "two")
ODD, COPY, NEAR = "two/odd.png", "zero/copy.png", "zero/near.jpg"


def write_images(root):
    """Write 90 digits in three classes, a copy, a re-encoded image and an odd one."""
    digits = load_digits()
    rows = [np.flatnonzero(digits.target == label)[:30] for label in range(3)]
    for name, group in zip(NAMES, rows, strict=True):
        (root / name.replace("/", "")).mkdir(parents=True)
        for row in group:
            image = cv2.resize((digits.images[row] * 15.9).astype(np.uint8), (16, 16))
            cv2.imwrite(str(root / name.replace("/", "") / f"{row:03d}.png"), image)
    first, second = sorted((root / "zero").glob("*.png"))[:2]
    (root / COPY).write_bytes(first.read_bytes())
    cv2.imwrite(str(root / NEAR), cv2.imread(str(second), 0), [cv2.IMWRITE_JPEG_QUALITY, 90])
    stripes = np.tile((np.arange(16) % 2 * 255).astype(np.uint8), (16, 1))
    cv2.imwrite(str(root / ODD), stripes)


@pytest.mark.full
class FinetuneTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.images = cls.folder / "images"
        write_images(cls.images)
        cls.data = f"folder:{cls.images}"
        ssl_jax.train("simclr:digits", workdir=cls.folder / "W", settings=TINY)
        settings = {"train.steps": 4, "train.batch_size": 16}
        cls.numbers = ssl_jax.finetune(
            cls.folder / "W", cls.data, cls.folder / "C", settings=settings
        )

    def test_the_numbers_and_files_agree(self):
        output = self.folder / "C"
        self.assertEqual(json.loads((output / "classifier.json").read_text()), self.numbers)
        scores = self.numbers["scores"]
        self.assertEqual([*scores], ["classifier", "linear_probe", "untrained", "chance"])
        with (output / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        correct = sum(row["label"] == row["predicted"] for row in rows)
        self.assertEqual(scores["classifier"]["correct"], correct)
        self.assertEqual(scores["classifier"]["total"], len(rows))
        with (output / "confusion.csv").open(newline="") as file:
            matrix = [[int(x) for x in row[1:]] for row in list(csv.reader(file))[1:]]
        self.assertEqual(np.trace(matrix), correct)
        self.assertEqual(sum(map(sum, matrix)), len(rows))
        chosen = [c["step"] for c in self.numbers["candidates"] if c["chosen"]]
        self.assertEqual(chosen, [self.numbers["step"]])
        page = (output / "classifier.html").read_text()
        self.assertNotIn("<b>one", page)
        self.assertIn("&lt;b&gt;one", page)

    def test_no_test_image_was_learned_from(self):
        experiment = finetune.Experiment.of_run(self.folder / "C")
        sources = experiment.source, experiment.holdout, experiment.eval_source
        names = [{s.describe(i) for i in range(len(s))} for s in sources]
        self.assertEqual(sum(map(len, names)), 93)
        self.assertLen(set.union(*names), 93)

    def test_the_file_predicts_what_the_report_says(self):
        columns = ssl_jax.predict(self.folder / "C", self.data)
        with (self.folder / "C" / "predictions.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                at = columns["name"].index(row["name"])
                self.assertEqual(columns["label"][at], row["predicted"])
                self.assertAlmostEqual(columns["confidence"][at], float(row["confidence"]), 4)
        total = sum(np.array(columns[f"confidence{s}"]) for s in ("", "_2", "_3"))
        np.testing.assert_allclose(total, 1, rtol=1e-6)
        self.assertEqual(
            sorted(set(columns["true_label"])), sorted(n.replace("/", "") for n in NAMES)
        )

    def test_the_same_command_finds_it_finished_and_another_is_refused(self):
        with mock.patch.object(finetune.probing, "linear_probe", side_effect=AssertionError):
            again = ssl_jax.finetune(self.folder / "W", self.data, self.folder / "C")
        self.assertEqual(again, self.numbers)
        with self.assertRaisesRegex(ssl_jax.UserError, "data.holdout .*name another --output"):
            ssl_jax.finetune(self.folder / "W", self.data, self.folder / "C", holdout=0.3)

    def test_a_file_of_weights_without_held_out_images(self):
        file = ssl_jax.export(
            self.folder / "W", self.folder / "w.safetensors", format="safetensors"
        )
        numbers = ssl_jax.finetune(
            file, self.data, self.folder / "F", holdout=0, settings={"train.steps": 2}
        )
        self.assertEqual((numbers["step"], numbers["candidates"]), (2, []))
        self.assertEqual(numbers["temperature"], 1)
        self.assertLen(ssl_jax.predict(self.folder / "F", self.data)["label"], 93)

    def test_images_that_do_not_fit(self):
        draw = np.random.default_rng(0)
        bands, tiny = self.folder / "bands.npz", self.folder / "tiny.npz"
        np.savez(bands, images=draw.integers(0, 255, (9, 16, 16, 6), dtype=np.uint8))
        pixels = draw.integers(0, 255, (9, 4, 4, 1), dtype=np.uint8)
        np.savez(tiny, images=pixels, labels=np.arange(9) % 2)
        with self.assertRaisesRegex(ssl_jax.UserError, "images of 6 channels, and .* reads"):
            ssl_jax.predict(self.folder / "C", f"npz:{bands}")
        with self.assertRaisesRegex(ssl_jax.UserError, "about 4 pixels .* or --any_size"):
            ssl_jax.predict(self.folder / "C", f"npz:{tiny}")
        table = self.folder / "tiny.csv"
        code, _, printed = call(
            *("predict", f"--workdir={self.folder}/C", f"--data=npz:{tiny}"),
            *("--any_size", f"--output={table}"),
        )
        self.assertEqual(code, 0, printed)
        self.assertIn("the labels of the images are not compared", printed)
        with table.open(newline="") as file:
            self.assertLen(list(csv.DictReader(file)), 9)
        page = table.with_suffix(".html").read_text()
        self.assertIn(f"ssl-jax predict --workdir={self.folder}/C --data=npz:{tiny}", page)
        with self.assertRaisesRegex(ssl_jax.UserError, "holds no classifier"):
            ssl_jax.predict(self.folder / "W", self.data)
        with self.assertRaisesRegex(ssl_jax.UserError, "--top=4: the classifier has 3 classes"):
            ssl_jax.predict(self.folder / "C", self.data, top=4)

    def test_copies_and_odd_images_are_listed(self):
        table = self.folder / "copies.csv"
        code, _, printed = call(
            "duplicates", f"--workdir={self.folder}/W", f"--data={self.data}", f"--output={table}"
        )
        self.assertEqual(code, 0, printed)
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        exact = [row["name"] for row in rows if row["kind"] == duplicates.EXACT]
        self.assertLen(exact, 2)
        self.assertIn(COPY, exact)
        self.assertEqual([row["group"] for row in rows[:2]], ["1", "1"])
        near = ssl_jax.duplicates(self.folder / "W", self.data, threshold=0.999)
        self.assertIn(NEAR, near["name"])
        features = self.folder / "copies.features.npz"
        odd = ssl_jax.outliers(self.folder / "W", self.data, features=features, count=5)
        self.assertLen(odd["name"], 5)
        self.assertIn(ODD, odd["name"])
        self.assertNotIn("<b>one", table.with_suffix(".html").read_text())


if __name__ == "__main__":
    absltest.main()
