"""A classifier of several labels per image from a tiny run: its numbers, files and predictions."""

import csv
import json
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from absl.testing import absltest

import ssl_jax
from tests.cli.finetune_test import TINY

NAMES = ("left", "middle", "right")


def write_images(root, count, seed):
    """Write grey images with a bright column per label, and their table."""
    rng, lines = np.random.default_rng(seed), ["image,label"]
    root.mkdir(parents=True)
    for i in range(count):
        shown = rng.random(3) < 0.5
        image = rng.integers(0, 60, (16, 16)).astype(np.uint8)
        for column in np.flatnonzero(shown):
            image[:, 5 * column + 1 : 5 * column + 4] += 150
        cv2.imwrite(str(root / f"{i:03d}.png"), image)
        lines.append(f"{i:03d}.png,{';'.join(n for n, s in zip(NAMES, shown, strict=True) if s)}")
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    return f"csv:{root}/table.csv"


@pytest.mark.full
class FinetuneLabelsTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.data = write_images(cls.folder / "a", 90, 0)
        cls.other = write_images(cls.folder / "b", 40, 1)
        ssl_jax.train("simclr:digits", workdir=cls.folder / "W", settings=TINY)
        settings = {"train.steps": 6, "train.batch_size": 16}
        cls.numbers = ssl_jax.finetune(
            cls.folder / "W", cls.data, cls.folder / "C", settings=settings
        )

    def test_the_numbers_and_files_agree(self):
        output = self.folder / "C"
        self.assertEqual(json.loads((output / "classifier.json").read_text()), self.numbers)
        scores = self.numbers["scores"]
        self.assertEqual([*scores], ["classifier", "linear_probe", "untrained", "chance"])
        self.assertGreater(scores["classifier"]["map"], scores["chance"]["map"])
        for candidate in self.numbers["candidates"]:
            self.assertBetween(candidate["map"], 0, 1)
        page = (output / "classifier.html").read_text()
        self.assertIn(f"mean average precision {scores['classifier']['map']:.3f}", page)
        self.assertFalse((output / "confusion.csv").exists())

    def test_predictions_are_all_labels_above_the_threshold(self):
        columns = ssl_jax.predict(self.folder / "C", self.other, threshold=0.4)
        self.assertEqual([*columns][2:], ["labels", "confidences", "true_labels"])
        self.assertLen(columns["labels"], 40)
        for labels, confidences in zip(columns["labels"], columns["confidences"], strict=True):
            self.assertEqual(len(labels), len(confidences))
            self.assertTrue(all(c >= 0.4 for c in confidences))
            self.assertEqual(confidences, sorted(confidences, reverse=True))
        table = self.folder / "p.csv"
        ssl_jax.predict(self.folder / "C", self.other, table)
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        self.assertContainsSubset(set(";".join(r["labels"] for r in rows).split(";")), {*NAMES, ""})
        self.assertTrue(table.with_suffix(".html").exists())
        with self.assertRaisesRegex(ssl_jax.UserError, "--top=1: .* set --threshold"):
            ssl_jax.predict(self.folder / "C", self.other, top=1)

    def test_the_same_call_finds_it_finished(self):
        again = ssl_jax.finetune(self.folder / "W", self.data, self.folder / "C")
        self.assertEqual(again, self.numbers)

    def test_test_images_with_one_label_each_are_refused(self):
        root = self.folder / "single"
        for name in NAMES[:2]:
            (root / name).mkdir(parents=True)
            for i in range(3):
                cv2.imwrite(str(root / name / f"{i}.png"), np.full((16, 16), 9 * i, np.uint8))
        with self.assertRaisesRegex(ssl_jax.UserError, "give evaluation images with labels of the"):
            ssl_jax.finetune(
                self.folder / "W", self.data, self.folder / "D", eval_data=f"folder:{root}"
            )


if __name__ == "__main__":
    absltest.main()
