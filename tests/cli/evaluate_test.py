"""Sweeps of evaluations over the checkpoints of a run, and the tables made from them."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.evals import features
from ssl_jax.evals.records import ResultsFile, key
from ssl_jax.run import evaluation
from ssl_jax.run.commands import evaluate

ROOT = Path(__file__).parents[2]
TINY = (
    "--config=simclr:digits",
    "--config.backbone.width=4",
    "--config.objective.projector=(8,8)",
    "--config.train.steps=4",
    "--config.train.batch_size=32",
    "--config.checkpoint.every=2",
    "--config.evals.every=-1",
    "--config.evals.max_train=300",
    "--config.evals.max_eval=100",
    "--config.evals.fewshot.draws=2",
)


class GridTest(absltest.TestCase):
    def test_every_combination(self):
        self.assertEqual(evaluate.grid([]), [{}])
        self.assertEqual(
            evaluate.grid(["k=1,5", "pool=avg,grid"]),
            [{"k": k, "pool": pool} for k in ("1", "5") for pool in ("avg", "grid")],
        )
        self.assertEqual(
            evaluate.grid(["shots=(1,),(5,10)"]), [{"shots": "(1,)"}, {"shots": "(5,10)"}]
        )


class EvaluateTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        for seed in (0, 1):
            cls.command("train", f"--workdir={cls.folder / f'run{seed}'}", *TINY, seed=seed)

    @classmethod
    def command(cls, *argv, code=0, seed=None):
        out, err = io.StringIO(), io.StringIO()
        seed = () if seed is None else (f"--config.train.seed={seed}",)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run([*argv, *seed])
        assert status == code, err.getvalue()
        return out.getvalue() if not code else err.getvalue()

    def evaluate(self, *flags, runs="run0", results="r.jsonl", code=0):
        where = (f"--workdir={self.folder / runs}", f"--results={self.folder / results}")
        return self.command("evaluate", *where, *flags, code=code)

    def read(self, name):
        return ResultsFile(self.folder / name).read()

    def test_a_run_of_a_mesh_that_is_not_here(self):
        self.evaluate("--eval=knn", results="here.jsonl")
        there = self.folder / "there"
        shutil.copytree(self.folder / "run0", there)
        config = json.loads((there / "config.json").read_text())
        config["mesh"] |= {"data": 4, "fsdp": 16}
        config["train"]["batch_size"] = 17
        (there / "config.json").write_text(json.dumps(config))
        self.evaluate("--eval=knn", runs="there", results="there.jsonl")
        here, there = (self.read(f"{name}.jsonl")[0]["results"] for name in ("here", "there"))
        self.assertEqual(here, there)

    def test_a_sweep_over_steps_and_settings(self):
        sweep = ("--eval=knn", "--step=all", "--sweep=k=1,5", "--sweep=stage=-1,-2")
        with mock.patch.object(features, "extract", wraps=features.extract) as extract:
            out = self.evaluate(*sweep, results="sweep.jsonl")
        # Both sets at each step, and once with the untrained network and as raw pixels.
        self.assertEqual(extract.call_count, 8)
        self.assertIn("eval/knn_top1  nearest neighbours (kNN)", out)
        records = self.read("sweep.jsonl")
        cells = {(r["step"], r["settings"]["k"], r["settings"]["stage"]) for r in records}
        self.assertEqual(cells, {(s, k, at) for s in (2, 4) for k in (1, 5) for at in (-1, -2)})
        for record in records:
            pool = "pooled" if record["settings"]["stage"] == -1 else "avg"
            self.assertEqual(record["settings"]["pool"], pool)
            self.assertEqual(record["settings"]["temperature"], 0.07)
            self.assertEqual(
                (record["method"], record["seed"], record["max_train"]), ("simclr", 0, 300)
            )
            self.assertEqual(set(record["baselines"]), {"untrained", "pixels"})
            self.assertEqual(set(record["baselines"]["pixels"]), set(record["results"]))
        # Alone, a cell gives the same number; and nothing is measured twice.
        self.evaluate("--eval=knn", "--sweep=k=5", "--sweep=stage=-2", results="one.jsonl")
        (alone,) = self.read("one.jsonl")
        (same,) = (record for record in records if key(record) == key(alone))
        self.assertEqual(same["results"], alone["results"])
        before = (self.folder / "sweep.jsonl").read_bytes()
        self.assertEqual(self.evaluate(*sweep, results="sweep.jsonl"), out)
        self.assertEqual((self.folder / "sweep.jsonl").read_bytes(), before)

    def test_linear_probes_of_two_layers_in_one_pass(self):
        sweep = ("lr=0.1,1", "stage=-1,-2", "epochs=2", "holdout=0.2")  # of "simclr", then
        flags = [f"--sweep={axis}" for axis in sweep]
        with mock.patch.object(features, "extract", wraps=features.extract) as extract:
            self.evaluate("--eval=linear", *flags, "--no_baselines", results="linear.jsonl")
        self.assertEqual(extract.call_count, 2)  # the training set and the test set
        records = self.read("linear.jsonl")
        self.assertLen(records, 4)
        for record in records:
            self.assertEqual(record["settings"]["preset"], "simclr")
            self.assertContainsSubset(
                ("eval/linear_top1", "eval/linear_holdout_top1"), record["results"]
            )

    def test_linear_probes_of_a_pretext_run_look_at_every_stage(self):
        """Measure them in one pass, unless a stage is named; other protocols read one stage."""
        tiny = [flag for flag in TINY if "projector" not in flag and "simclr" not in flag]
        where = f"--workdir={self.folder / 'rotnet'}"
        self.command("train", where, "--config=rotnet:digits", *tiny)
        with mock.patch.object(features, "extract", wraps=features.extract) as extract:
            self.evaluate("--eval=linear", "--no_baselines", runs="rotnet", results="all.jsonl")
        self.assertEqual(extract.call_count, 2)  # the training set and the test set
        self.evaluate("--eval=knn", runs="rotnet", results="all.jsonl")
        self.evaluate("--eval=linear", "--sweep=stage=-1", runs="rotnet", results="all.jsonl")
        records = [
            (r["protocol"], r["settings"]["stage"], r["settings"]["pool"])
            for r in self.read("all.jsonl")
        ]
        linear = [("linear", stage, "grid") for stage in (-3, -2, -1)]
        self.assertEqual(records, [*linear, ("knn", -2, "grid")])  # and stage -1 was known

    def test_a_list_of_settings(self):
        cells = self.folder / "cells.jsonl"
        cells.write_text('{"k": 3}\n\n{"k": 7, "temperature": 0.1}\n')
        self.evaluate("--eval=knn", f"--cells={cells}", results="list.jsonl")
        records = [
            (r["settings"]["k"], r["settings"]["temperature"]) for r in self.read("list.jsonl")
        ]
        self.assertEqual(records, [(3, 0.07), (7, 0.1)])

    def test_by_default_the_run_s_own_protocols_in_its_own_folder(self):
        self.command("evaluate", f"--workdir={self.folder / 'run1'}")
        lines = ResultsFile(self.folder / "run1" / "eval" / "results.jsonl").read()
        self.assertEqual(
            [line["protocol"] for line in lines], ["diagnostics", "knn", "fewshot", "clustering"]
        )

    def test_an_interrupted_sweep_resumes(self):
        path = self.folder / "killed.jsonl"
        argv = [
            *("evaluate", f"--workdir={self.folder / 'run0'}", f"--results={path}"),
            *("--eval=fewshot", "--sweep=draws=2,3,4,5,6,7,8,9", "--sweep=shots=(1,),(2,)"),
        ]
        env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
        child = subprocess.Popen(
            [sys.executable, "-m", "ssl_jax", *argv],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 300
        while not ResultsFile(path).read():
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(child.poll())
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = path.read_text().splitlines()
        self.assertLess(len(before), 16, "it was done before it was killed")
        self.command(*argv)
        after = path.read_text().splitlines()
        self.assertEqual(after[: len(before)], before)
        self.assertLen({key(json.loads(line)) for line in after}, 16)
        self.assertLen(after, 16)

    def test_a_run_is_followed_to_its_end(self):
        """Start to follow before its first checkpoint."""
        folder = self.folder / "live"
        argv = ("train", f"--workdir={folder}", *TINY, "--config.checkpoint.keep=9")
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        run = subprocess.Popen([sys.executable, "-m", "ssl_jax", *argv], env=env)
        deadline = time.monotonic() + 300
        while not (folder / "config.json").exists():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)
        with mock.patch.object(evaluation, "POLL", 0.1):
            self.evaluate("--eval=knn", "--follow", runs="live", results="live.jsonl")
        self.assertEqual([line["step"] for line in self.read("live.jsonl")], [2, 4])
        self.assertEqual(run.wait(), 0)

    @parameterized.parameters(
        (("--eval=nearest",), "unknown evaluation 'nearest'"),
        (("--eval=knn", "--sweep=kk=3"), "knn: unknown key 'kk'"),
        (("--eval=knn", "--sweep=k=big"), "knn.k: expected int, got 'big'"),
        (("--eval=knn", "--sweep=k"), "--sweep=k: expected SETTING=VALUE,VALUE"),
        (("--eval=knn", "--sweep=k=0"), "knn.k: expected .* of at least 1, got 0"),
        (
            ("--eval=layers", "--sweep=examples=0"),
            "layers.examples: expected .* of at least 2, got 0",
        ),
        (("--eval=clustering", "--sweep=clusters=0"), "clustering.clusters: expected"),
        (("--eval=knn", "--sweep=stage=9"), "probe: no stage 9"),
        (("--eval=classifier",), "classifier: not measured: it needs a classifier of the method"),
        (("--eval=attentive", "--sweep=stage=9"), "probe: no stage 9"),
        (("--eval=fewshot", "--sweep=lists=('/no',)"), "list /no: No such file"),
        (("--eval=clustering", "--sweep=superclasses=/no"), "superclasses /no: No such file"),
        (("--eval=knn", "--cells=/nowhere"), "--cells=/nowhere: .*No such file"),
        (("--sweep=k=1", "--cells=x"), "give --sweep or --cells, not both"),
        (("--sweep=k=1", "--sweep=k=5"), "k is swept twice; write --sweep=k=A,B"),
        (("--results={config}",), "config.json is no file of results; name another one"),
        (("--step=2", "--follow"), "give --step or --follow, not both"),
        (("--step=3",), "holds no checkpoint of step 3; there are: 2, 4"),
    )
    def test_what_is_wrong_is_said(self, flags, message):
        config = self.folder / "run0" / "config.json"
        err = self.evaluate(*(flag.format(config=config) for flag in flags), code=2)
        self.assertRegex(err, f"^ssl-jax: .*{message}")
        self.assertLen(err.splitlines(), 1)

    def test_the_tables(self):
        self.evaluate("--eval=knn", "--sweep=k=1,5", runs="run?", results="two.jsonl")
        results = f"--results={self.folder / 'two.jsonl'}"
        rows = self.command("results", results, "--sort=-k", "--format=csv").splitlines()
        numbers = "knn_mean_per_class,untrained/knn_mean_per_class,pixels/knn_mean_per_class"
        numbers = f"{numbers},{numbers.replace('mean_per_class', 'top1')}"
        self.assertEqual(rows[0], f"workdir,method,seed,step,protocol,k,{numbers}")
        self.assertLen(rows, 5)
        self.assertEqual([row.split(",")[5] for row in rows[1:]], ["1", "1", "5", "5"])
        rows = self.command("results", results, "--where=k=5", "--mean=seed", "--format=csv")
        expected = "simclr,4,knn"
        for column in numbers.split(","):
            kind, _, name = column.rpartition("/")
            records = self.read("two.jsonl")
            values = [
                (r["baselines"][kind] if kind else r["results"])[f"eval/{name}"] for r in records
            ]
            five = [values[1], values[3]]  # run by run
            deviation = abs(five[0] - five[1]) / 2**0.5
            expected += f",{sum(five) / 2:.4f} ± {deviation:.4f}"
        head = f"method,step,protocol,{numbers},n"
        self.assertEqual(rows.splitlines(), [head, f"{expected},2"])
        self.assertRegex(self.command("results", results, "--format=markdown"), r"^\| workdir")
        path = self.folder / "table.tex"
        self.command("results", results, "--format=latex", f"--output={path}")
        self.assertIn(r"\toprule", path.read_text())

    def test_runs_compared(self):
        """Compare synthetic runs: one leads by .1 and .3 with two seeds, at its own steps."""
        for name, step, scores in (("a", 10, (0.6, 0.8)), ("b", 20, (0.5, 0.5))):
            for seed, score in enumerate(scores):
                run = self.folder / f"{name}{seed}"
                file = ResultsFile(run / "eval" / "results.jsonl")
                common = {"workdir": str(run), "method": name, "seed": seed, "data": "d"}
                common |= {"protocol": "linear", "settings": {"lr": 0.1, "seed": 0}}
                for at, value in ((step - 5, 0.0), (step, score)):
                    file.append(common | {"step": at, "results": {"eval/linear_top1": value}})
                (run / "config.json").write_text("{}")
        where = [f"--workdir={self.folder / 'a?'}", f"--against={self.folder / 'b?'}"]
        rows = self.command("results", *where, "--format=csv").splitlines()
        self.assertEqual(
            rows,
            [
                "protocol,metric,this,other,difference,standard error,pairs",
                "linear,linear_top1,0.7000,0.5000,0.2000,0.1000,2",
            ],
        )
        rows = self.command("results", where[0], "--where=step=10", "--mean=seed", "--format=csv")
        self.assertEqual(rows.splitlines()[1], "a,10,linear,0.7000 ± 0.1414,2")
        err = self.command("results", *where, "--where=seed=7", code=2)
        self.assertIn("no two results of the same seed", err)

    @parameterized.parameters(
        (("--where=kk=3",), "no column 'kk'"),
        (("--where=k",), "expected COLUMN=VALUE"),
        (("--sort=size",), "--sort=size"),
        (("--mean=size",), "--mean=size: no such column"),
        (("--format=html",), "--format: expected one of 'table', 'csv', 'markdown', 'latex'"),
        (("--where=k=99",), "no such results"),
    )
    def test_what_is_wrong_with_a_table(self, flags, message):
        self.evaluate("--eval=knn", "--sweep=k=1,5", results="two2.jsonl")
        results = f"--results={self.folder / 'two2.jsonl'}"
        self.assertIn(message, self.command("results", results, *flags, code=2))


if __name__ == "__main__":
    absltest.main()
