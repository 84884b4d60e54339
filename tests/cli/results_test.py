"""Means over runs that differ only in the seed, and numbers beside their baselines."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

from absl.testing import absltest

from ssl_jax import cli
from ssl_jax.evals.records import ResultsFile


class ResultsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.enter_context(tempfile.TemporaryDirectory()))

    def add(self, name, score, seed=0, lr=0.1, method="simclr", **more):
        run = self.folder / name
        record = {"workdir": str(run), "method": method, "seed": seed, "step": 10, "data": "d"}
        record |= {"protocol": "knn", "settings": {"k": 20}}
        ResultsFile(run / "eval" / "results.jsonl").append(
            record | {"results": {"eval/knn_top1": score}} | more
        )
        config = {"optim": {"lr": lr}, "train": {"seed": seed}, "evals": {"every": seed}}
        (run / "config.json").write_text(json.dumps(config))

    def results(self, *flags, code=0):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.run(["results", *flags])
        self.assertEqual(status, code, err.getvalue())
        return out.getvalue(), err.getvalue()

    def test_runs_of_other_settings_are_in_no_mean(self):
        for seed, lr, score in ((0, 0.1, 0.5), (1, 0.1, 0.7), (0, 0.3, 0.9)):
            self.add(f"run{seed}{lr}", score, seed, lr)
        out, err = self.results(f"--workdir={self.folder}/*", "--mean=seed", "--format=csv")
        head, *rows = out.splitlines()
        self.assertEqual(head, "method,step,protocol,optim.lr,knn_top1,n")
        self.assertEqual(
            sorted(rows), ["simclr,10,knn,0.1,0.6000 ± 0.1414,2", "simclr,10,knn,0.3,0.9000,1"]
        )
        self.assertEqual(err, "")

    def test_a_run_that_is_there_twice_counts_once(self):
        for name, seed, score in (("a", 0, 0.5), ("b", 1, 0.7), ("copy", 0, 0.5)):
            self.add(name, score, seed)
        out, err = self.results(f"--workdir={self.folder}/*", "--mean=seed", "--format=csv")
        self.assertEqual(out.splitlines()[1], "simclr,10,knn,0.6000 ± 0.1414,2")
        self.assertRegex(err, "a and .*copy differ only in their folder")

    def test_sides_of_a_comparison_differ_in_the_seed_only(self):
        for name, seed, lr in (("a0", 0, 0.1), ("a1", 1, 0.3), ("b0", 0, 0.1), ("b1", 0, 0.1)):
            self.add(name, 0.5, seed, lr)
        a, b = f"{self.folder}/a?", f"{self.folder}/b?"
        _, err = self.results(f"--workdir={a}", f"--against={self.folder}/b0", code=2)
        self.assertRegex(err, "--workdir: .*a0 and .*a1 differ in more than the seed: optim.lr")
        _, err = self.results(f"--workdir={self.folder}/a0", f"--against={b}", code=2)
        self.assertRegex(err, "--against: .*b0 and .*b1 have the same seed; name one run per seed")

    def test_numbers_stand_beside_their_baselines_and_a_verdict_below(self):
        beside = {"untrained": {"eval/knn_top1": 0.3}, "pixels": {"eval/knn_top1": 0.6}}
        self.add("run", 0.5, baselines=beside)
        where = f"--workdir={self.folder / 'run'}"
        out, _ = self.results(where, "--format=csv")
        self.assertEqual(
            out.splitlines(),
            [
                "workdir,method,seed,step,protocol,knn_top1,untrained/knn_top1,pixels/knn_top1",
                "run,simclr,0,10,knn,0.5000,0.3000,0.6000",
            ],
        )
        out, _ = self.results(where)
        self.assertIn("1 of 1: run, knn: The trained features do not beat raw pixels", out)


if __name__ == "__main__":
    absltest.main()
