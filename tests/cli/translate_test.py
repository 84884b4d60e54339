"""`ssl-jax translate` on a run of CUT, its distances and its pictures; requests that fail."""

import json
from pathlib import Path

import pytest
from absl.testing import absltest

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


class TranslateTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def test_bad_requests(self):
        where = f"--workdir={self.folder}"
        err = command("translate", where, f"--output={self.folder / 'o'}", code=2)
        self.assertEqual(err.count("\n"), 1)
        self.assertIn("--data", err)
        output = f"--output={self.folder / 'none' / 'o'}"
        err = command("translate", where, "--data=digits", output, code=2)
        self.assertRegex(err, r"--output=.*: no folder .*none\n$")
        err = command("translate", where, "--data=digits", f"--output={self.folder / 'o'}", code=2)
        self.assertEqual(err.count("\n"), 1)

    @pytest.mark.full
    def test_a_run_translates_is_measured_and_shown(self):
        run, output = self.folder / "run", self.folder / "out"
        command("train", f"--workdir={run}", *TINY)
        translate = ("translate", f"--workdir={run}", "--data=digits", f"--output={output}")
        out = command(*translate)
        self.assertIn("digits: 360 images, translated at 16 x 16 px by step 2 of", out)
        self.assertRegex(out, r"out: 360 images, 360 images in 0:")
        self.assertIn("already complete", command(*translate))
        self.assertIn("no checkpoint of step 7", command(*translate, "--step=7", code=2))

        evaluate = ("evaluate", f"--workdir={run}", "--no_baselines")
        command(*evaluate, "--eval=translation")
        sets = (f"--data=folder:{output}", "--eval_data=digits:inverted")
        command(*evaluate, "--eval=distance", *sets)
        lines = (run / "eval" / "results.jsonl").read_text().splitlines()
        numbers, distance = (json.loads(line)["results"] for line in lines)
        self.assertGreater(numbers["eval/untranslated_kid_hog"], 0)
        self.assertLen(numbers, 8)
        self.assertEqual(distance.keys(), {"eval/distance_frechet", "eval/distance_kid"})
        command("report", f"--workdir={run}", "--examples=32")
        page = (run / "report.html").read_text()
        for word in ("source", "translation", "target", "identity"):
            self.assertIn(f">{word}<", page)


if __name__ == "__main__":
    absltest.main()
