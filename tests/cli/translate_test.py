"""`ssl-jax translate` on a run of CUT: the folder, resuming, refusals; its numbers and pictures."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax.augment import recipes
from ssl_jax.data.sources import open_source
from ssl_jax.embed import translate
from tests.cli.embed_test import command

TINY = (
    "--config=cut:digits",
    "--config.backbone.width=4",
    "--config.backbone.blocks=1",
    "--config.objective.layers=('image','down2','block1')",
    "--config.objective.patches=8",
    "--config.objective.patch_width=4",
    "--config.objective.discriminator_width=4",
    "--config.train.steps=2",
    "--config.train.batch_size=8",
    "--config.evals.every=-1",
)


class TranslateTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.run_folder, cls.images = cls.folder / "run", cls.folder / "images"
        command("train", f"--workdir={cls.run_folder}", *TINY)
        (cls.images / "a").mkdir(parents=True)
        digits = open_source("digits", "eval").arrays
        for name, image in zip(("a/x.png", "a/y.jpg", "z.png", "z.bmp"), digits, strict=False):
            cv2.imwrite(str(cls.images / name), image)

    def translate(self, *flags, code=0, output=None):
        self.output = output or Path(self.create_tempdir().full_path) / "out"
        where = (f"--workdir={self.run_folder}", f"--output={self.output}")
        return command(
            "translate", *where, *(flags or (f"--data=folder:{self.images}",)), code=code
        )

    def test_a_folder(self):
        out = self.translate()
        self.assertIn("4 images, translated at 16 x 16 px by step 2 of", out)
        names = ["a/x.png", "a/y.png", "z.bmp.png", "z.png.png"]
        written = {str(p.relative_to(self.output)) for p in self.output.rglob("*") if p.is_file()}
        self.assertEqual(written, {*names, translate.METADATA})
        encoder = ssl_jax.load(self.run_folder)
        source = cv2.imread(str(self.images / "a/x.png"), 0)[None, ..., None]
        image = recipes.pixels(encoder.view, encoder.translate(encoder.preprocess(source)))[0]
        found = cv2.imread(str(self.output / "a/x.png"), 0)
        self.assertLessEqual(np.abs(found.astype(int) - image[..., 0]).max(), 1)
        self.assertIn("already complete", self.translate(output=self.output))
        self.assertFalse(self.output.with_name("out.parts").exists())

    def test_an_interrupted_run_goes_on(self):
        save, calls = translate._save, []

        def dies(path, image):
            if len(calls) == 3:
                raise KeyboardInterrupt
            calls.append(path.name)
            save(path, image)

        flags = (f"--data=folder:{self.images}", "--batch_size=8")
        with mock.patch.object(translate, "_save", dies), self.assertRaises(KeyboardInterrupt):
            self.translate(*flags)
        self.assertFalse(self.output.exists())
        with mock.patch.object(translate, "_save", mock.Mock(side_effect=save)) as saved:
            self.translate(*flags, output=self.output)
        self.assertEqual(saved.call_count, 1)
        self.assertLen(json.loads((self.output / translate.METADATA).read_text())["images"], 4)

    def test_nothing_there_is_lost(self):
        self.output = Path(self.create_tempdir().full_path) / "out"
        self.output.mkdir()
        (self.output / "mine.txt").write_text("kept")
        err = self.translate(code=2, output=self.output)
        self.assertIn("exists and holds no translations; choose another folder", err)
        self.assertEqual((self.output / "mine.txt").read_text(), "kept")

    def test_translations_of_other_images_are_kept(self):
        self.translate()
        err = self.translate("--data=digits", code=2, output=self.output)
        self.assertRegex(err, "holds translations with another data .*; remove it, or choose")
        (self.output / "a/x.png").unlink()
        self.assertIn(
            "a/x.png is missing; remove the folder", self.translate(code=2, output=self.output)
        )

    def test_bad_requests(self):
        self.assertRegex(
            self.translate("--data=digits", "--step=7", code=2), "no checkpoint of step 7"
        )
        self.assertIn("--data", self.translate("--split=eval", code=2))
        missing = self.folder / "none" / "out"
        self.assertIn("no folder", self.translate("--data=digits", output=missing, code=2))

    def test_names_stay_inside_of_the_folder(self):
        self.assertEqual(str(translate._safe("/etc/../x/y.jpg")), "etc/x/y.jpg")
        self.assertEqual(str(translate._safe("..")), "image")

    def test_distances_and_pictures(self):
        where = f"--workdir={self.run_folder}"
        command("evaluate", where, "--eval=translation", "--no_baselines")
        lines = (self.run_folder / "evals.jsonl").read_text().splitlines()
        numbers = json.loads(lines[-1])["results"]
        self.assertGreater(numbers["eval/untranslated_kid_hog"], 0)
        self.assertLen(numbers, 8)
        command("report", where, "--examples=32")
        page = (self.run_folder / "report.html").read_text()
        for word in ("source", "translation", "target", "identity"):
            self.assertIn(f">{word}<", page)


if __name__ == "__main__":
    absltest.main()
