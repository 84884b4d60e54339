"""Every subcommand, over what comes from others and from the system: code in the folder of a run,
paths of any form, files of the wrong kind, files of a run that were edited or cut.
"""

import contextlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax import cli
from ssl_jax.core import files, trust
from ssl_jax.core.errors import UserError
from ssl_jax.evals.records import ResultsFile
from ssl_jax.run.commands import train
from ssl_jax.run.configs import configured, load_config, load_method
from ssl_jax.run.console import styled, terminal
from ssl_jax.run.experiment import Experiment

ROOT = Path(__file__).parents[2]
METHOD = "import pathlib\npathlib.Path(__file__).with_name('RAN').touch()\n"
METHOD += "from ssl_jax.objectives.simclr import *\n"
TINY = ("train.batch_size", 16), ("train.steps", 2), ("backbone.width", 4), ("mesh.data", 8)
RECORD = {
    "workdir": "w",
    "method": "m",
    "seed": 0,
    "step": 1,
    "protocol": "knn",
    "settings": {},
    "results": {"eval/a": 0.5},
}
# Subcommand -> its command lines with {} where a path goes that leads nowhere, {run} for the
# folder of a run, {new} for a path that is free.
PATHS = {
    "checkpoints": [("--workdir={}",), ("--workdir={}", "--verify"), ("--workdir={}", "--prune")],
    "compile": [("--config={}", "--topology=v5e:2x2")],
    "completion": [("--nothing={}",)],
    "config": [("--config={}",), ("--config=simclr:digits", "--save={}/x.yaml")],
    "doctor": [("--data=folder:{}",)],
    "duplicates": [
        ("--workdir={}", "--data=digits", "--output={new}.csv"),
        ("--weights={}", "--data=digits", "--output={new}.csv"),
        ("--workdir={run}", "--data=digits", "--output={}/d.csv"),
    ],
    "embed": [
        ("--workdir={}", "--data=digits", "--output={new}.npz"),
        ("--weights={}", "--data=digits", "--output={new}.npz"),
        ("--workdir={run}", "--output={}/e.npz"),
    ],
    "evaluate": [
        ("--workdir={}",),
        ("--workdir={run}", "--cells={}"),
        ("--workdir={run}", "--suite={}.py:x"),
    ],
    "evolve": [
        ("--config={}", "--workdir={new}"),
        ("--config=simclr:digits", "--workdir={file}/x"),
    ],
    "export": [
        ("--workdir={}", "--format=npz", "--output={new}.npz"),
        ("--workdir={run}", "--format=npz", "--output={}/o.npz"),
        ("--workdir={run}", "--format=orbax", "--output={}/o"),
        ("--workdir={run}", "--format=hf", "--output={}/o"),
    ],
    "finetune": [
        ("--workdir={}", "--data=digits", "--output={new}"),
        ("--weights={}", "--data=digits", "--output={new}"),
        ("--workdir={run}", "--data=folder:{}", "--output={new}"),
        ("--workdir={run}", "--data=digits", "--output={file}"),
    ],
    "import": [("--weights={}", "--output={new}.npz")],
    "methods": [("--nothing={}",)],
    "outliers": [
        ("--workdir={}", "--data=digits", "--output={new}.csv"),
        ("--workdir={run}", "--data=digits", "--output={}/o.csv"),
    ],
    "predict": [
        ("--workdir={}", "--data=digits", "--output={new}.csv"),
        ("--weights={}", "--data=digits", "--output={new}.csv"),
        ("--workdir={run}", "--data=digits", "--output={}/p.csv"),
    ],
    "prepare": [("--data=folder:{}", "--output={new}"), ("--data=digits", "--output={file}/o")],
    "push": [("--workdir={}", "--repo=me/net"), ("--workdir={run}", "--repo={}")],
    "report": [("--workdir={}",), ("--workdir={run}", "--output={}/r.html")],
    "results": [
        ("--results={}",),
        ("--workdir={run}", "--output={}/r.txt"),
    ],
    "study": [("--study={}.py:x", "--workdir={new}")],
    "translate": [
        ("--workdir={}", "--data=digits", "--output={new}"),
        ("--workdir={run}", "--data=digits", "--output={}/o"),
    ],
    "train": [
        ("--config={}", "--workdir={new}"),
        ("--config={}.py:x", "--workdir={new}"),
        ("--config=simclr:digits", "--config.objective.name={}.py", "--workdir={new}"),
        ("--config=simclr:digits", "--config.train.init_from={}", "--workdir={new}"),
        ("--config=simclr:digits", "--data=folder:{}", "--workdir={new}"),
        ("--config=simclr:digits", "--config.mesh.data=8", "--workdir={file}/x"),
        ("--config=simclr:digits", "--workdir={file}/x", "--dry_run"),
    ],
    "views": [("--config={}", "--output={new}.png")],
}


def call(*argv):
    """Run a subcommand; return (exit code, lines on stderr, all output)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run([str(word) for word in argv])
    return code, err.getvalue().splitlines(), out.getvalue() + err.getvalue()


class Runs(parameterized.TestCase):
    """A run of two steps, in its state before the first."""

    config: dict

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.config = Experiment.from_config(configured("simclr:digits", TINY)).resolved()

    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.run_ = self.create_run("run")

    def create_run(self, name, **changes):
        folder = self.folder / name
        folder.mkdir(parents=True)
        files.write_json(folder / "config.json", {**self.config, **changes})
        return folder

    def fails(self, *argv, message=""):
        code, lines, printed = call(*argv)
        self.assertEqual(code, 2, printed)
        self.assertLen(lines, 1, printed)
        self.assertRegex(lines[0], f"^ssl-jax: .*{message}")


class CodeTest(Runs):
    def with_code(self, name="run", at="method.py", **changes):
        """Create a run whose config names a method file in it; return the file and the run's
        folder.
        """
        run = self.folder / name
        objective = {**self.config["objective"], "name": str(run / at), **changes}
        shutil.rmtree(run, ignore_errors=True)
        self.create_run(name, objective=objective)
        (run / at).parent.mkdir(exist_ok=True)
        (run / at).write_text(METHOD)
        return run / at, run

    def assert_not_run(self, method):
        self.assertFalse(method.with_name("RAN").exists())

    @parameterized.parameters(
        ("evaluate", "--eval=knn"),
        ("embed", "--output=e.npz"),
        ("translate", "--data=digits", "--output=o"),
        ("export", "--format=npz", "--output=o.npz"),
        ("export", "--format=stablehlo", "--output=o.zip"),
        ("report", "--output=r.html"),
        ("report", "--data=digits", "--output=r.html"),
        ("train",),
        ("train", "--config.train.stop_at=1"),
        ("checkpoints",),
        ("results",),
    )
    def test_a_run_brings_no_code(self, command, *flags):
        method, run = self.with_code()
        with contextlib.chdir(self.folder):
            code, _, printed = call(command, f"--workdir={run}", *flags)
        self.assertIn(code, (0, 2), printed)
        self.assert_not_run(method)
        if command not in ("checkpoints", "results", "export"):  # which need no method so far
            self.assertIn("which holds no code", printed)
            self.assertIn("--trust_code", printed)

    def test_every_subcommand_has_the_flag(self):
        for name in cli.subcommands():
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
                cli.run([name, "--help"])
            self.assertIn("--trust_code", out.getvalue(), name)

    def test_the_encoder_of_a_run(self):
        method, run = self.with_code()
        with self.assertRaisesRegex(UserError, "which holds no code"):
            ssl_jax.load(run)
        self.assert_not_run(method)
        with self.assertRaisesRegex(UserError, "holds no checkpoint"):
            ssl_jax.load(run, trust_code=True)
        self.assertTrue(method.with_name("RAN").exists())
        self.assertFalse(trust.trusted())

    def test_a_run_inside_another(self):
        method, _ = self.with_code("outer")
        inner = self.create_run(
            "outer/inner", objective={**self.config["objective"], "name": str(method)}
        )
        with self.assertRaisesRegex(UserError, "lies in the folder of a run, .*outer, which"):
            Experiment.of_run(inner).resolved()
        started = self.create_run(
            "started", train={**self.config["train"], "init_from": str(inner)}
        )
        self.fails("train", f"--workdir={started}", message="which holds no code")
        self.assert_not_run(method)

    def test_links_do_not_hide_where_it_lies(self):
        method, run = self.with_code("outer", "deep/method.py")
        (self.folder / "link").symlink_to(run)
        (self.folder / "link.py").symlink_to(method)
        (run / "elsewhere.py").symlink_to(self.folder / "own.py")
        (self.folder / "own.py").write_text(METHOD)
        for name in (
            "link/deep/method.py",
            "link.py",
            "outer/elsewhere.py",
            "run/../outer/deep/method.py",
        ):
            with self.assertRaisesRegex(UserError, "which holds no code"):
                load_method(str(self.folder / name))
            with self.assertRaisesRegex(UserError, "which holds no code"):
                load_config(f"{self.folder / name}:x")
        self.assert_not_run(method)
        self.assertTrue(load_method(str(self.folder / "own.py")).make)  # beside runs, not in one

    def test_who_trusts_the_author(self):
        method, run = self.with_code()
        self.fails("evaluate", f"--workdir={run}", "--trust_code", message="holds no checkpoint")
        self.assertTrue(method.with_name("RAN").exists())
        method.with_name("RAN").unlink()
        call("evaluate", f"--workdir={run}")  # it held for that command only
        self.assert_not_run(method)

    def test_configs_and_studies(self):
        for name in ("compile", "study", "train", "views"):
            config = self.run_ / f"{name}.py"
            config.write_text(METHOD.replace("simclr", "byol"))
            flags = {
                "compile": (f"--config={config}:x", "--topology=v5e:2x2"),
                "study": (f"--study={config}:x", "--workdir=s"),
                "train": (f"--config={config}:x", "--workdir=w"),
                "views": (f"--config={config}:x", "--output=v.png"),
            }[name]
            self.fails(name, *flags, message="which holds no code")
            self.assert_not_run(config)

    def test_libraries_are_not_those_of_the_current_folder(self):
        (self.folder / "numpy.py").write_text("raise SystemExit(7)")
        command, env = trust.python("ssl_jax")
        done = subprocess.run([*command, "--help"], cwd=self.folder, env=env, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_config_of_another_program_is_no_run(self):
        (self.folder / "config.json").write_text('{"model_type": "vit"}')
        (self.folder / "own.py").write_text(METHOD)
        self.assertTrue(load_method(str(self.folder / "own.py")).make)


class PathsTest(Runs):
    def test_all_subcommands_are_here(self):
        self.assertCountEqual(PATHS, cli.subcommands())

    @parameterized.parameters(*PATHS)
    def test_paths_that_lead_nowhere(self, command):
        (self.folder / "file").touch()
        paths = {
            "missing": self.folder / "missing",
            "too long": f"{self.folder}/{'x' * 300}",
            "below a file": self.folder / "file" / "x",
            "with a bracket": self.folder / "[1" / "missing",
            "with a line break": self.folder / "a\nb",
            "in no UTF-8": self.folder / "\udcff",
        }
        places = {"run": self.run_, "new": self.folder / "new", "file": self.folder / "file"}
        for what, path in paths.items():
            for flags in PATHS[command]:
                with self.subTest(what, flags=flags):
                    words = [flag.format(path, **places) for flag in flags]
                    self.fails(command, *words)
                    self.assertFalse((self.folder / "new.npz").exists())

    def test_a_folder_that_looks_like_a_checkpoint(self):
        (self.folder / "0" / "x").mkdir(parents=True)
        output = f"--output={self.folder}/e.npz"
        words = ("embed", f"--weights={self.folder}", "--data=digits", output)
        self.fails(*words, message="/0 is not a checkpoint: ")

    @parameterized.parameters("r[1]x", "a,b", "a*b", "back\\slash", "q?x", "{a,b}", "~x", "[bold]")
    def test_a_folder_by_its_own_name(self, name):
        run = self.create_run(f"runs/{name}")
        ResultsFile(run / "eval" / "results.jsonl").append({**RECORD, "workdir": str(run)})
        with contextlib.chdir(self.folder):
            for text in (run, f"runs/{name}", f"run,{run}"):
                code, _, printed = call("results", f"--workdir={text}")
                self.assertEqual(code, 0, printed)
                self.assertIn(name, printed)
            code, _, printed = call("checkpoints", f"--workdir=runs/{name}")
        self.assertEqual(code, 0, printed)
        self.assertIn(f"runs/{name}/checkpoints: no complete checkpoint", printed)

    def test_what_to_run_next_can_be_copied(self):
        np.savez(self.folder / "x.npz", images=np.zeros((2, 8, 8, 1), np.uint8))
        output = self.folder / "my records"
        _, _, text = call("prepare", f"--data=npz:{self.folder / 'x.npz'}", f"--output={output}")
        (line,) = (line for line in text.splitlines() if line.startswith("next: "))
        self.assertIn(f"--data=array_record:{output}", shlex.split(line))

    def test_home(self):
        home = self.folder / "home"
        run = self.create_run("home/own")
        with mock.patch.dict(os.environ, HOME=str(home)):
            self.assertEqual(files.home("folder:~/x,~/y"), f"folder:{home}/x,{home}/y")
            self.assertEqual(files.home("a~b/~c"), "a~b/~c")
            code, _, printed = call("checkpoints", "--workdir=~/own")
            self.assertEqual(code, 0, printed)
            (self.folder / "c.py").write_text(
                "def get_config():\n    return {'train': {'init_from': '~/w'}, 'data': {}}"
            )
            self.assertEqual(
                load_config(str(self.folder / "c.py"))["train"], {"init_from": f"{home}/w"}
            )
        self.assertTrue(run.exists())

    def test_names_are_printed_as_they_are(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            terminal().print("[red]a[/red] [/x] :smile: \x1b[31m\x07 \udcff")
            terminal().print(styled(("[b]\x1b", "bold")))
        self.assertEqual(
            out.getvalue(), "[red]a[/red] [/x] :smile: \\x1b[31m\\x07 \\udcff\n[b]\\x1b\n"
        )

    def test_warnings_escape_names(self):
        """A fresh process: absl's first warning would add a handler of its own."""
        code = (
            "from ssl_jax import cli; cli.run(['help']); from absl import logging; "
            "logging.warning('corrupt image %s', '\\x1b[31mred')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual(done.stderr, "corrupt image \\x1b[31mred\n")


class EditedTest(Runs):
    """Files of a run that were edited, cut or replaced by a folder."""

    @parameterized.parameters(
        {},
        {"objective": None},
        {"spec": [1]},
        {"optim": "x"},
        {"optim": {"lr": "x"}},
        {"spec": {"total_steps": "x"}},
        {"objective": {"name": 3}},
        {"objective": {"name": "simclr", "view": {"size": 8}}},
        {"objective": {"name": "simclr", "views": 3}},
    )
    def test_config(self, **changes):
        config = {**self.config, **changes} if changes else {}
        files.write_json(self.run_ / "config.json", config)
        for command in (
            ("report",),
            ("results",),
            ("checkpoints",),
            ("evaluate",),
            ("embed", "--data=digits", f"--output={self.folder}/e.npz"),
            ("export", "--format=npz", f"--output={self.folder}/o.npz"),
        ):
            code, _, printed = call(*command, f"--workdir={self.run_}")
            self.assertIn(code, (0, 2), printed)

    @parameterized.parameters(
        '{"step": 3, "train/loss": "abc"}',
        '{"step": 3, "train/loss": null}',
        '{"step": 3, "train/loss": %s}' % ("9" * 400),
        '{"step": 3, "diag/collapse": 7}',
        '{"step": "x", "train/loss": 1}',
        '{"step": 3, "train/loss": [1]}',
        '{"step": 3, "train/lo',
    )
    def test_metrics(self, line):
        (self.run_ / "metrics.jsonl").write_text(f'{{"step": 1, "train/loss": 2.5}}\n{line}\n')
        code, _, printed = call("report", f"--workdir={self.run_}")
        self.assertEqual(code, 0, printed)
        self.assertTrue((self.run_ / "report.html").exists())

    @parameterized.parameters(
        ({"workdir": ...},),
        ({"settings": [1]},),
        ({"step": "x"},),
        ({"seed": None},),
        ({"results": {"eval/a": None}},),
        ({"results": {"eval/a": "x"}},),
        ({"baselines": {"pixels": 3}},),
        ({"config": [1]},),
    )
    def test_results(self, changes):
        bad = {k: v for k, v in {**RECORD, **changes}.items() if v is not ...}
        (self.run_ / "eval").mkdir()
        text = "".join(f"{json.dumps(record)}\n" for record in (bad, {**RECORD, "seed": 1}))
        (self.run_ / "eval" / "results.jsonl").write_text(text + '{"torn": ')
        for flags in ((), ("--mean=seed",), ("--sort=step",)):
            with self.assertLogs("ssl_jax.evals.records", "WARNING") as logs:
                code, _, printed = call("results", f"--workdir={self.run_}", *flags)
            self.assertEqual(code, 0, printed)
            self.assertRegex(
                logs.output[0], r"results.jsonl: skipped 1 line\(s\) that are not results"
            )
        self.assertEqual(call("report", f"--workdir={self.run_}")[0], 0)

    @parameterized.parameters("config.json", "metrics.jsonl", "eval/results.jsonl", "eval")
    def test_a_folder_or_a_file_in_its_place(self, name):
        path = self.run_ / name
        path.unlink(missing_ok=True)
        path.touch() if name == "eval" else path.mkdir(parents=True)
        for command in ("report", "results", "evaluate", "checkpoints"):
            code, lines, printed = call(command, f"--workdir={self.run_}")
            self.assertIn(code, (0, 2), printed)
            self.assertLessEqual(len(lines), 1, printed)

    def test_fewer_steps_than_are_done(self):
        done = self.run_ / "checkpoints" / "8"
        done.mkdir(parents=True)
        (done / "manifest.json").touch()
        (self.run_ / "checkpoints" / "007").mkdir()
        (self.run_ / "checkpoints" / "²").mkdir()
        before = (self.run_ / "config.json").read_bytes()
        for flags, message in (
            (
                ("--config.train.steps=20", "--config.train.stop_at=4"),
                "train.stop_at: .* at step 4",
            ),
            (("--config.train.steps=6",), r"train.steps \(or epochs\): .* step 6, .* at step 8"),
        ):
            words = ("--accept_changes", f"--workdir={self.run_}")
            self.fails("train", *flags, *words, message=message)
            self.assertEqual((self.run_ / "config.json").read_bytes(), before)
        experiment = Experiment.of_run(self.create_run("fresh"))
        train.check_end(experiment, self.folder / "fresh")


class StreamsTest(parameterized.TestCase):
    @parameterized.parameters(
        (">&-", 2, "standard output: it is closed"),
        (">/dev/full", 2, "standard output: No space left"),
    )
    def test_standard_output_closed_or_full(self, redirect, code, message):
        words = f"{sys.executable} -m ssl_jax --help {redirect}"
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, cwd=ROOT)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertLen(done.stderr.splitlines(), 1, done.stderr)
        self.assertIn(message, done.stderr)


if __name__ == "__main__":
    absltest.main()
