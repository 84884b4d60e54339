"""Suites of data sets: measured in one command, shown in one table."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax import cli
from ssl_jax.cli import results
from ssl_jax.core.errors import UserError
from ssl_jax.evals.records import ResultsFile
from ssl_jax.run import suites
from ssl_jax.run.experiment import Experiment
from tests.cli.evaluate_test import TINY

SUITE = """
def get_config(name="all"):
    return {
        "digits": {},
        "missing": {"data": "folder:/nowhere"},
        "few": {
            "data": "digits",
            "max_train": 50,
            "metric": "mean_per_class",
            "settings": {"knn": {"k": 3}},
        },
        "unlabelled": {"data": "npz:FOLDER/images.npz"},
    }
"""


class SuiteTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.suite = cls.folder / "suite.py"
        cls.suite.write_text(SUITE.replace("FOLDER", str(cls.folder)))
        np.savez(cls.folder / "images.npz", images=np.zeros((40, 8, 8), np.uint8))
        cls.command("train", f"--workdir={cls.folder / 'run'}", *TINY)

    @classmethod
    def command(cls, *argv, code=0):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run(list(argv))
        assert status == code, (status, err.getvalue())
        return out.getvalue() + err.getvalue()

    def evaluate(self, name, *flags, code=0):
        where = f"--workdir={self.folder / 'run'}", f"--results={self.folder / name}"
        return self.command("evaluate", *where, *flags, code=code)

    def test_one_command_and_one_table(self):
        flags = ("--eval=knn", f"--suite={self.suite}", "--sweep=stage=-1,-2")
        out = self.evaluate("suite.jsonl", *flags, code=2)
        self.assertIn("missing: folder:/nowhere: no such folder", out)
        self.assertRegex(out, "unlabelled: npz:.*images.npz or its evaluation set has no labels")
        self.assertIn("Not measured: missing, unlabelled", out)
        records = ResultsFile(self.folder / "suite.jsonl").read()
        self.assertLen(records, 4)
        for record in records:
            few = record["set"] == "few"
            self.assertEqual(record["settings"]["k"], 3 if few else 20)
            self.assertEqual(record["max_train"], 50 if few else 300)
            metric = "mean_per_class" if few else "top1"
            self.assertEqual(record["metric"], metric)
            self.assertEqual(
                record["results"]["eval/score"], record["results"][f"eval/knn_{metric}"]
            )
        # Alone, the run's own data give the same number; nothing is measured twice.
        self.evaluate("alone.jsonl", "--eval=knn")
        (alone,) = ResultsFile(self.folder / "alone.jsonl").read()
        self.assertEqual(alone["results"]["eval/knn_top1"], records[0]["results"]["eval/knn_top1"])
        before = (self.folder / "suite.jsonl").read_bytes()
        self.evaluate("suite.jsonl", *flags, code=2)
        self.assertEqual((self.folder / "suite.jsonl").read_bytes(), before)
        table = ("results", f"--results={self.folder / 'suite.jsonl'}", "--format=csv")
        rows = [row.split(",") for row in self.command(*table, "--columns=set").splitlines()]
        self.assertEqual(
            rows[0],
            [
                *("workdir", "method", "seed", "step", "protocol"),
                *("pool", "stage", "digits", "few", "mean"),
            ],
        )
        values = {(r["set"], r["settings"]["stage"]): r["results"]["eval/score"] for r in records}
        self.assertLen(rows, 3)
        for row in rows[1:]:
            digits, few = (values[name, int(row[6])] for name in ("digits", "few"))
            expected = [f"{x:.4f}" for x in (digits, few, (digits + few) / 2)]
            self.assertEqual(row[7:], expected)
        err = self.command(*table, "--columns=set", "--value=x", code=2)
        self.assertIn("no result has both 'set' and --value=x", err)

    def test_other_data_are_measured_on_what_they_hold_out(self):
        root, draws = self.folder / "parts", np.random.default_rng(0)
        for top, most in (("train", 4095), ("val", 1000)):
            for name in "ab":
                (root / top / name).mkdir(parents=True)
                for i in range(4):
                    pixels = draws.integers(0, most + 1, (8, 8), np.uint16)
                    Image.fromarray(pixels).save(root / top / name / f"{i}.png")
        experiment = Experiment.of_run(self.folder / "run")
        made = suites.Task.of(experiment, "", suites.DataSet(f"folder:{root}"), ["knn"], [{}])
        self.assertEqual(made.identity["eval_data"], f"folder:{root}#val")
        self.assertEqual(
            suites.measured_on(made.evaluator.images), f"8 images of folder:{root}#val"
        )
        self.assertEqual(made.evaluator.images.test.source.value_range, (0, 4095))  # of train
        out = self.evaluate("parts.jsonl", "--eval=knn", f"--data=folder:{root}")
        self.assertIn(f"evaluated on: 8 images of folder:{root}#val\n", out)
        images = draws.integers(0, 256, (40, 8, 8), np.uint8)
        np.savez(self.folder / "whole.npz", images=images, labels=np.arange(40) % 2)
        whole = suites.DataSet(f"npz:{self.folder / 'whole.npz'}")
        made = suites.Task.of(experiment, "", whole, ["knn"], [{}])
        self.assertRegex(suites.measured_on(made.evaluator.images), "^8 images, a fifth of npz:")

    def test_the_shipped_one_without_a_download(self):
        out = self.evaluate("digits.jsonl", "--eval=knn", "--suite=suites:digits")
        self.assertIn("on digits_100:", out)
        records = ResultsFile(self.folder / "digits.jsonl").read()
        self.assertEqual([record["max_train"] for record in records], [300, 300, 100])

    @pytest.mark.full
    def test_robustness_without_a_download(self):
        flags = ("--eval=shifts,corruptions", "--suite=suites:robustness_digits", "--no_baselines")
        self.evaluate("robust.jsonl", *flags, "--sweep=classifier=knn", "--sweep=examples=50")
        shifts, corruptions = ResultsFile(self.folder / "robust.jsonl").read()
        self.assertEqual(shifts["settings"]["sets"], ["digits:photos", "digits:inverted"])
        self.assertIn("eval/shifts_inverted_top1", shifts["results"])
        self.assertIn("eval/corruptions_mce", corruptions["results"])
        self.assertEqual(corruptions["settings"]["examples"], 50)
        out = self.evaluate("none.jsonl", "--eval=shifts", "--suite=suites:robustness", code=2)
        self.assertIn("imagenet: folder:imagenet/train: no such folder", out)

    def test_the_shipped_ones_are_well_formed(self):
        self.assertLen(suites.suite("suites:kornblith"), 9)
        self.assertEqual(suites.suite("suites:kornblith")["pets"].metric, "mean_per_class")
        self.assertLen(suites.suite("suites:vtab"), 12)

    @parameterized.parameters(
        ("{'a': 'digits'}", "a: expected a dict of data, eval_data, ..., got 'digits'"),
        ("{'a': {'dat': 'digits'}}", "a: unknown key 'dat'; did you mean 'data'"),
        ("{'a': {'metric': 'f1'}}", "a.metric: .*'f1'"),
        ("{'a': {'settings': {'nearest': {}}}}", "a: unknown protocol 'nearest'"),
        ("{}", "it holds no data set"),
    )
    def test_what_is_wrong_is_said(self, text, message):
        path = self.folder / "wrong.py"
        path.write_text(f"def get_config(name=''):\n    return {text}\n")
        with self.assertRaisesRegex(UserError, message):
            suites.suite(str(path))

    def test_one_or_the_other(self):
        err = self.evaluate("x.jsonl", f"--suite={self.suite}", "--data=digits", code=2)
        self.assertIn("give --suite or --data, not both", err)


class AcrossTest(absltest.TestCase):
    def test_what_goes_with_a_set_tells_no_rows_apart(self):
        def row(run, name, score, k):
            return dict(workdir=run, protocol="knn", set=name, data=f"{name}'s", k=k, score=score)

        rows = [row("a", "x", 0.1, 1), row("a", "y", 0.3, 5), row("b", "x", 0.2, 1)]
        table, columns = results.across(rows, ["score"], "set", "score")
        self.assertEqual(columns, ["x", "y", "mean"])
        self.assertEqual(
            table,
            [
                {"workdir": "a", "protocol": "knn", "x": 0.1, "y": 0.3, "mean": 0.2},
                {"workdir": "b", "protocol": "knn", "x": 0.2},
            ],
        )


if __name__ == "__main__":
    absltest.main()
