"""Studies: runs are trained in sequence, resumed, and shown in one table."""

import contextlib
import importlib
import inspect
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.cli import study as command
from ssl_jax.cli import train
from ssl_jax.cli.study import fits
from ssl_jax.core.errors import UserError
from ssl_jax.core.watch import INTERRUPTED
from ssl_jax.data.sources import open_source
from ssl_jax.evals import protocols
from ssl_jax.run import flags as command_line
from ssl_jax.run import study, study_page
from ssl_jax.run.commands import evaluate
from ssl_jax.run.configs import configured
from ssl_jax.run.suites import settings
from ssl_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
STUDY = """
from itertools import product

def get_config(name="four"):
    return {
        f"data{share}-steps{steps}": {
            "config": "simclr:digits",
            "data.fraction": share,
            "train.steps": steps,
            "backbone.width": 4,
            "objective.projector": (8, 8),
            "train.batch_size": 16,
            "checkpoint.every": 2,
            "evals.protocols": ("knn",),
            "evals.max_train": 100,
            "evals.max_eval": 50,
        }
        for share, steps in product((0.1, 1.0), (2, 6))
    }
"""


def studies_of(module):
    """Names of the functions of a file of studies that make one."""
    own = {k: f for k, f in inspect.getmembers(module, inspect.isfunction) if k[0] != "_"}
    own = {k: f for k, f in own.items() if f.__module__ == module.__name__}
    return [k for k, f in own.items() if not inspect.signature(f).parameters]


class StudyTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.file = self.folder / "study.py"
        self.file.write_text(STUDY)
        self.argv = ["study", f"--study={self.file}", f"--workdir={self.folder / 'S'}"]

    def run_study(self, *flags, code=0):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run([*self.argv, *flags])
        self.assertEqual(status, code, err.getvalue())
        return out.getvalue(), err.getvalue()

    def test_killed_it_goes_on_and_a_finished_run_is_left_alone(self):
        child = subprocess.Popen(
            [sys.executable, "-m", "ssl_jax", *self.argv],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        first, second = (self.folder / "S" / f"data0.1-steps{n}" for n in (2, 6))
        deadline = time.monotonic() + 600
        while not (second / "config.json").exists():
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(child.poll())
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.assertTrue(study.finished(first))
        self.assertFalse(study.finished(second))
        before = (first / "metrics.jsonl").read_bytes()
        # A run that cannot be trained is named, and the others are.
        blocked = self.folder / "S" / "data1.0-steps2"
        blocked.write_text("no folder")
        out, err = self.run_study("--format=csv", "--metrics=knn_top1", code=2)
        self.assertEqual((first / "metrics.jsonl").read_bytes(), before)
        self.assertIn("not trained or measured: data1.0-steps2", err)
        blocked.unlink()
        with mock.patch.object(train, "train", wraps=train.train) as start:
            out, err = self.run_study("--format=csv", "--metrics=knn_top1")
        self.assertEqual(start.call_count, 1)
        rows = [line.split(",") for line in out.splitlines() if line.startswith(("run,", "data"))]
        self.assertEqual(rows[0], ["run", "data.fraction", "train.steps", "step", "knn_top1"])
        self.assertEqual(
            [row[:4] for row in rows[1:]],
            [
                [f"data{share}-steps{steps}", share, steps, steps]
                for share in ("0.1", "1.0")
                for steps in ("2", "6")
            ],
        )
        for row in rows[1:]:
            last = read_metrics(self.folder / "S" / row[0])[-1]
            self.assertEqual(row[4], f"{last['eval/knn_top1']:.4f}")

    def test_the_shipped_ones_are_configs(self):
        for path in (ROOT / "configs").glob("stud*.py"):
            for name in studies_of(importlib.import_module(f"configs.{path.stem}")):
                runs = study.read(f"{path.stem}:{name}")
                self.assertGreater(len({run.name for run in runs}), 2, name)
                for run in runs:
                    configured(run.config, list(run.changes.items()))

    def test_a_fit_per_metric(self):
        self.file.write_text(
            "def get_config(name=''):\n"
            "    return {f'{n}-{s}': {'config': 'x', 'data.fraction': n, 'train.seed': s}\n"
            "            for n in (0.1, 1.0) for s in (0, 1)}\n"
        )
        runs = study.read(str(self.file))
        rows = [{"step": 9, "knn_top1": x} for x in (0.5, 0.6, 0.7, 0.9)]  # slopes 0.2 and 0.3
        (row,) = fits(runs, rows, "data.fraction")
        half = 12.706205 * 0.05  # Student's t with one degree of freedom, times the standard error
        self.assertEqual((row["metric"], row["seeds"]), ("knn_top1", 2))
        for name, want in (
            ("at 1", 0.8),
            ("per factor 10", 0.25),
            ("low", 0.25 - half),
            ("high", 0.25 + half),
        ):
            self.assertAlmostEqual(row[name], want, 5)
        rows[1]["knn_top1"] = math.nan  # no score: seed 1 has one size left
        with self.assertRaisesRegex(UserError, "knn_top1: expected two or more sizes, got 1"):
            fits(runs, rows, "data.fraction")
        with self.assertRaisesRegex(UserError, "--fit=train.steps: expected a number at train.st"):
            fits(runs, rows, "train.steps")
        with self.assertRaisesRegex(UserError, "--fit=train.seed: knn_top1: expected sizes above"):
            fits(runs, rows, "train.seed")

    def test_a_key_for_all_runs(self):
        run = study.read(str(self.file), [("train.steps", 9)])[0]
        words = run.words(Path("/S"), data="digits")
        self.assertContainsSubset(
            ["--config.train.steps=9", "--data=digits", "--workdir=/S/data0.1-steps2"], words
        )
        self.assertNotIn("--config.train.steps=2", words)

    def test_runs_are_measured_once(self):
        self.file.write_text(
            "def get_config(name=''):\n"
            "    more = ('--eval=knn --sweep=k=5', '--eval=similarity --sweep=other={study}/b')\n"
            "    return {n: {'config': 'simclr:digits', 'evaluate': more} for n in ('a', 'b')}\n"
        )
        calls = []
        for code in (1, 0, 0):  # the measurement of the first attempt fails
            with (
                mock.patch.object(command, "finished", return_value=True),
                mock.patch.object(cli, "run", side_effect=lambda w: calls.append(w) or code),  # noqa: B023
                contextlib.suppress(UserError),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                command.main(self.argv)
        own = f"--workdir={self.folder / 'S' / 'a'}"
        other = f"--sweep=other={self.folder / 'S' / 'b'}"
        each = [
            ["evaluate", own, "--eval=knn", "--sweep=k=5"],
            ["evaluate", own, "--eval=similarity", other],
        ]
        self.assertEqual(calls[:2], each)  # the second is made although the first failed
        self.assertEqual(calls[4:6], each)
        self.assertLen(calls, 4 + 4)

    def test_a_measurement_that_is_interrupted_is_the_last(self):
        self.file.write_text(
            "def get_config(name=''):\n"
            "    more = ('--eval=knn', '--eval=similarity')\n"
            "    return {n: {'config': 'simclr:digits', 'evaluate': more} for n in ('a', 'b')}\n"
        )
        with (
            mock.patch.object(command, "finished", return_value=True),
            mock.patch.object(cli, "run", return_value=INTERRUPTED) as run,
        ):
            self.assertEqual(command.main(self.argv), INTERRUPTED)
        self.assertEqual(run.call_count, 1)

    def test_the_page_of_what_the_folder_holds(self):
        """One run is finished, one is not."""
        self.file.write_text(
            "from ssl_jax.report.study import StudyPage\n"
            "from ssl_jax.report.study_sections import MeanTable\n"
            "def get_config(name=''):\n"
            "    one = {'config': 'simclr:digits'}\n"
            "    return {f'{n}': one | {'labels': {'size': n}} for n in (1, 2)}\n"
            "def get_page(name=''):\n"
            "    own, knn = {'kNN': 'eval/knn_top1'}, {'protocol': 'knn'}\n"
            "    text = dict(title='Sizes', question='?', setup='', limits=('few',))\n"
            "    return StudyPage(**text, sections=(\n"
            "        MeanTable(title='Runs', rows=('size',), metrics=own),\n"
            "        MeanTable(title='Records', rows=('size', 'k'), metrics=own,\n"
            "            where=knn | {'data': 'digits'})))\n"
        )
        run = self.folder / "S" / "1"
        (run / "eval").mkdir(parents=True)
        (run / "metrics.jsonl").write_text('{"step": 9, "eval/knn_top1": 0.5}\n')
        record = {"workdir": "1", "method": "m", "seed": 0, "step": 9, "protocol": "knn"}
        record |= {"data": "digits", "settings": {"k": 5}, "results": {"eval/knn_top1": 0.75}}
        broken = record | {"settings": {"k": 6}, "results": {}, "not_finite": ["eval/knn_top1"]}
        earlier = record | {"settings": {"k": 7}, "step": 8}
        elsewhere = record | {"settings": {"k": 8}, "data": "photos"}
        lines = [json.dumps(r) for r in (record, broken, earlier, elsewhere)]
        (run / "eval" / "results.jsonl").write_text("\n".join(lines) + "\n")
        page = self.folder / "sizes.md"
        with (
            mock.patch.object(study_page, "finished", side_effect=lambda path: path.name == "1"),
            mock.patch.object(study_page, "newest", return_value=9),
            mock.patch.object(cli, "run", side_effect=AssertionError("nothing is trained")),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            command.main([*self.argv, "--stored", f"--page={page}", "--config.train.steps=9"])
        text = page.read_text()
        for part in (
            f"ssl-jax study --study={self.file} --workdir=S --config.train.steps=9 --page=sizes.md",
            "1 of 2 runs are finished",
            "| 1 | 0.500 |",
            "| 2 | not run |",
            "| 1 | 5 | 0.750 |",
            "| 1 | 6 | no score |",
        ):
            self.assertIn(part, text)
        self.assertNotIn("| 1 | 7 |", text)  # of an earlier checkpoint
        self.assertNotIn("| 1 | 8 |", text)  # of other data

    def test_a_study_without_a_page(self):
        with (
            self.assertRaisesRegex(UserError, "--page: .* defines no get_page"),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            command.main([*self.argv, "--stored", f"--page={self.folder / 'x.md'}"])

    @parameterized.product(name=("jft", "masked", "revisiting", "scaling"), size=("small", "paper"))
    def test_the_papers_studies_have_pages(self, name, size):
        spec = f"study_{name}:{size}"
        runs = study.read(spec)
        path = self.folder / f"{name}.md"
        study_page.write(path, spec, runs, self.folder / "S")
        self.assertIn("not run", path.read_text())
        for run in {run.config: run for run in runs}.values():
            configured(run.config, list(run.changes.items()))
        for words in {tuple(w) for run in runs for w in run.evaluations(self.folder)}:
            flags = command_line.parse(list(words), evaluate.__doc__, evaluate.Flags)
            for protocol in flags.eval:
                base = protocols.known()[protocols.check(protocol)]()
                settings(base, protocol, evaluate.grid(flags.sweep))

    def test_the_tables_of_the_paper_s_tasks_name_the_data_as_records_do(self):
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(self.folder)
        objects = {"images": [{"id": 0, "file_name": "a.jpg"}], "annotations": []}
        voc = "<annotation><object><name>dog</name></object></annotation>"
        for path, text in {
            "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt": "a\n",
            "VOCdevkit/VOC2007/Annotations/a.xml": voc,
            "VOCdevkit/VOC2007/JPEGImages/a.jpg": "",
            "coco2014/annotations/instances_train2014.json": json.dumps(
                objects | {"categories": []}
            ),
            "coco2014/annotations/instances_val2014.json": json.dumps(objects | {"categories": []}),
            "coco2014/train2014/a.jpg": "",
            "places205/train/abbey/a.jpg": "",
        }.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
        spec = "study_scaling:paper"
        words = study.read(spec)[0].evaluations(self.folder)
        flags = [command_line.parse(w, evaluate.__doc__, evaluate.Flags) for w in words]
        names = {open_source(f.data).name for f in flags if f.data}
        shown = {section.where.get("data") for section in study_page.read_page(spec).sections}
        self.assertEqual(shown - {None}, names)

    @parameterized.parameters(
        ("{'a': {'config': 'x', 'labels': 1}}", "a: labels: expected a dict, got 1"),
        ("{'a': {'config': 'x', 'evaluate': '--eval=knn'}}", "evaluate: expected a tuple of texts"),
        ("{'a': {'train.steps': 1}}", "a: expected a dict with the key 'config'"),
        ("{'a/b': {'config': 'x'}}", "'a/b' is not a valid folder name"),
        ("{'a': {'config': 'x', 'evaluate': 5}}", "evaluate: expected a tuple of texts, got 5"),
        ("{}", "it holds no run"),
    )
    def test_what_is_wrong_is_said(self, text, message):
        self.file.write_text(f"def get_config(name=''):\n    return {text}\n")
        with self.assertRaisesRegex(UserError, message):
            study.read(str(self.file))


if __name__ == "__main__":
    absltest.main()
