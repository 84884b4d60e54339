"""Reports of finished runs, and of runs with something missing."""

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path

from absl.testing import absltest

from ssl_jax import cli
from ssl_jax.run.commands.train import number_of_classes

TINY = (
    "--config=rotnet:digits",
    "--config.backbone.width=4",
    "--config.train.steps=4",
    "--config.train.batch_size=32",
    "--config.train.log_every=1",
    "--config.evals.every=-1",
)


def command(*argv: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(list(argv))
    return code, out.getvalue(), err.getvalue()


class ReportTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.run_folder = cls.folder / "trained"
        code, out, err = command("train", f"--workdir={cls.run_folder}", *TINY)
        assert code == 0, err
        assert f"next: ssl-jax report --workdir={cls.run_folder}" in out, out

    def copy(self, name: str) -> Path:
        folder = self.folder / name
        shutil.copytree(self.run_folder, folder, ignore=shutil.ignore_patterns("report.html"))
        return folder

    def test_everything_of_one_run(self):
        code, out, err = command("report", f"--workdir={self.run_folder}", "--examples=60")
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"written to {self.run_folder / 'report.html'}", out)
        text = (self.run_folder / "report.html").read_text()
        for heading in ("Curves", "Nearest neighbours", "Clusters", "Predicted rotations"):
            self.assertIn(f"<h2>{heading}</h2>", text)
        self.assertRegex(text, "digits; evaluation: [0-9]+ images of digits")
        self.assertIn("1,437 images, 10 classes; evaluation: held out of it", text)
        self.assertIn("jax 0.", text)  # from the checkpoint's metadata
        lines = map(json.loads, (self.run_folder / "metrics.jsonl").read_text().splitlines())
        losses = " ".join(f"{x['train/loss']:.4g}" for x in lines if "train/loss" in x)
        self.assertIn(f'data-values="{losses}"', text)

    def test_beside_a_run_without_checkpoint_and_with_a_damaged_line(self):
        broken = self.copy("broken")
        shutil.rmtree(broken / "checkpoints")
        with (broken / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 4, "diag/collapse": 2.0}\n{"step": 5, "train/lo\xff\n')
        output = self.folder / "both.html"
        code, out, err = command(
            "report", f"--workdir={self.run_folder},{broken}", f"--output={output}", "--examples=60"
        )
        self.assertEqual((code, err), (0, ""))
        self.assertIn("there is no checkpoint yet, so the page shows only what was logged", out)
        text = output.read_text()
        self.assertIn("broken: 1 damaged line(s) of metrics.jsonl are skipped.", text)
        collapsed = "The run had collapsed when last measured. Dimensional collapse: features"
        self.assertIn(f"broken: {collapsed}", text)
        self.assertIn("broken: No pictures: there is no checkpoint yet", text)
        self.assertEqual(text.count("<polyline"), 2 * text.count('<figure class="chart">'))
        self.assertIn("trained, step 4", text)
        self.assertNotIn("broken, step", text)
        self.assertFalse((broken / "checkpoints" / "4").exists())

    def test_data_without_labels(self):
        described = [*map(number_of_classes, (0, 1, 1000))]
        self.assertEqual(described, ["no labels", "1 class", "1,000 classes"])

    def test_errors_are_one_line(self):
        for message, argv in (
            ("no run in", [f"--workdir={self.folder / 'nothing'}"]),
            ("--workdir is missing", []),
            ("holds no checkpoint of step 3", [f"--workdir={self.run_folder}", "--step=3"]),
            ("no folder", [f"--workdir={self.run_folder}", "--output=/no/where.html"]),
            (
                "--examples: expected a whole number of at least 8",
                [f"--workdir={self.run_folder}", "--examples=2"],
            ),
        ):
            code, _, err = command("report", *argv)
            self.assertEqual(code, 2, err)
            self.assertIn(message, err)
            self.assertLen(err.splitlines(), 1)


if __name__ == "__main__":
    absltest.main()
