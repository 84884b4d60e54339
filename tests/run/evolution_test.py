"""Evolution: members are a function of settings and of earlier generations; searches resume."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.cli import evolve
from ssl_jax.core.errors import UserError
from ssl_jax.run import evolution, study
from ssl_jax.run.evolution import Generation, SearchPlan, Settings, ask, projected

ROOT = Path(__file__).parents[2]
METHOD = Path(__file__).parent / "weighted_losses.py"
TARGET = np.array([1.0, 0.2, 0.7, 0.0, 0.4, 0.9])
ALGORITHMS = ("tournament", "cma", "random")


def search(algorithm, generations, seed=0, population=8):
    """Minimise the distance to TARGET; return the generations and the best distance."""
    settings = Settings(population=population, algorithm=algorithm, seed=seed)
    history: list[Generation] = []
    for _ in range(generations):
        genomes = ask(settings, len(TARGET), history)
        history.append(Generation(genomes, np.square(genomes - TARGET).sum(1)))
    return history, min(generation.fitness.min() for generation in history)


def plan(**options):
    usual = {"config": "x:digits", "overrides": {}, "genes": "objective.weights"}
    usual |= {"names": tuple("abcdef"), "fitness": "diag/f", "maximize": False}
    usual |= {"data": "", "eval_data": "", "settings": Settings(population=4, generations=3)}
    return SearchPlan(**(usual | options))


class AskTest(parameterized.TestCase):
    @parameterized.parameters(*ALGORITHMS)
    def test_a_generation_is_the_same_when_asked_again(self, algorithm):
        first, _ = search(algorithm, 4)
        again, _ = search(algorithm, 4)
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.genomes, b.genomes)
        other, _ = search(algorithm, 4, seed=1)
        self.assertTrue((first[-1].genomes != other[-1].genomes).any())

    @parameterized.parameters(*ALGORITHMS)
    def test_genomes_are_weights(self, algorithm):
        history, _ = search(algorithm, 4)
        np.testing.assert_array_equal(history[0].genomes[0], 1)  # equal weights
        for genomes, _ in history:
            self.assertBetween(genomes.min(), 0, 1)
            np.testing.assert_array_equal(genomes.max(1), 1)
            texts = [float(f"{x}") for x in genomes.ravel()]  # of a command line
            np.testing.assert_array_equal(texts, genomes.ravel())

    def test_all_zero_is_no_member(self):
        np.testing.assert_array_equal(
            projected(np.array([[-1.0, 0.0], [0.2, 0.1]])), [[1, 1], [1, 0.5]]
        )

    @parameterized.parameters("tournament", "cma")
    def test_it_finds_a_minimum_better_than_random_search(self, algorithm):
        best = [search(algorithm, 12, seed)[1] for seed in range(8)]
        chance = [search("random", 12, seed)[1] for seed in range(8)]
        self.assertLess(np.median(best), 0.3 * np.median(chance))

    @parameterized.parameters("tournament", "cma")
    def test_a_failed_member_is_no_parent(self, algorithm):
        settings = Settings(population=4, algorithm=algorithm, deviation=1e-9)
        genomes = projected(np.random.default_rng(0).uniform(size=(4, 3)))
        fitness = np.array([np.inf, np.inf, 0.0, np.inf])
        if algorithm == "cma":
            self.assertTrue(np.isfinite(ask(settings, 3, [Generation(genomes, fitness)])).all())
            return
        history = [Generation(genomes, fitness)] * 4  # four copies of the good member come first
        np.testing.assert_allclose(ask(settings, 3, history), genomes[[2] * 4], atol=1e-4)


class PlanTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path) / "S"

    def test_a_search_resumes_with_the_same_members(self):
        plan().begin(self.folder)
        trained: dict[str, float] = {}
        with (
            mock.patch.object(evolution, "finished", lambda path: path.name in trained),
            mock.patch.object(
                evolution, "last_numbers", lambda path: {"diag/f": trained[path.name]}
            ),
        ):
            names = []
            while (runs := SearchPlan.read(self.folder).next(self.folder)[0]) and len(names) < 20:
                changes = [dict(run.changes) for run in runs]
                again = [dict(run.changes) for run in plan().next(self.folder)[0]]
                self.assertEqual(changes, again)
                first = next(run for run in runs if run.name not in trained)  # one at a time
                names.append(first.name)
                trained[first.name] = float(sum(first.changes.values()))
            _, history = plan().next(self.folder)
        self.assertEqual(names, [f"g{g:02}-m{m:02}" for g in range(3) for m in range(4)])
        self.assertLen(history, 3)

    def test_other_settings_are_refused_but_for_more_generations(self):
        plan().begin(self.folder)
        longer = plan(settings=Settings(population=4, generations=5))
        longer.begin(self.folder)
        self.assertEqual(SearchPlan.read(self.folder), longer)
        with self.assertRaisesRegex(UserError, "holds a search with other settings"):
            plan(settings=Settings(population=5, generations=5)).begin(self.folder)
        with self.assertRaisesRegex(UserError, "no search in"):
            SearchPlan.read(self.folder.parent)

    def test_a_metric_that_no_member_has(self):
        members = plan().members(0, np.ones((2, 6)))
        with self.assertRaisesRegex(UserError, "--fitness=diag/f: no member of the generation of"):
            plan().tell(self.folder, members, np.ones((2, 6)))

    def test_maximize(self):
        values = iter((0.5, float("nan")))
        with mock.patch.object(evolution, "last_numbers", lambda _: {"diag/f": next(values)}):
            members = plan().members(0, np.ones((2, 6)))
            generation = plan(maximize=True).tell(self.folder, members, np.ones((2, 6)))
        np.testing.assert_array_equal(generation.fitness, [-0.5, np.inf])

    def test_the_fitness_is_the_mean_of_runs_from_several_seeds(self):
        settings = Settings(population=2, generations=1, runs=2)
        several = plan(overrides={"train.seed": "5"}, maximize=True, settings=settings)
        members = several.members(0, np.ones((2, 6)))
        names = [[run.name for run in runs] for runs in members.values()]
        self.assertEqual(names, [["g00-m00-s5", "g00-m00-s6"], ["g00-m01-s5", "g00-m01-s6"]])
        seeds = [run.changes["train.seed"] for runs in members.values() for run in runs]
        self.assertEqual(seeds, [5, 6, 5, 6])
        values = {"g00-m00-s5": 9.0, "g00-m01-s5": 1.0, "g00-m01-s6": 3.0}  # a run without it
        numbers = lambda path: {"diag/f": values[path.name]} if path.name in values else {}  # noqa: E731
        with (
            mock.patch.object(evolution, "last_numbers", numbers),
            mock.patch.object(evolution, "finished", lambda path: True),
        ):
            generation = several.tell(self.folder, members, np.ones((2, 6)))
            np.testing.assert_array_equal(generation.fitness, [np.inf, -2])
            rows, population = evolve.table(several, self.folder)
        self.assertEqual([row.get("diag/f") for row in rows], [None, 2.0])
        self.assertEqual(population.fitness.argmin(), 1)

    def test_the_seeds_follow_that_of_the_config(self):
        options = {"fitness": "f", "maximize": False, "data": "", "eval_data": ""}
        for changes, first in (([], "0"), ([("train.seed", 3)], "3")):
            made = SearchPlan.of(
                f"{METHOD}:digits",
                changes,
                "objective.weights",
                settings=Settings(runs=2),
                **options,
            )
            self.assertEqual(made.overrides["train.seed"], first)

    def test_numbers_must_be_there(self):
        options = {"fitness": "f", "maximize": False, "data": "", "eval_data": ""}
        with self.assertRaisesRegex(UserError, "--genes=optim: expected a key of the config with"):
            SearchPlan.of(f"{METHOD}:digits", [], "optim", settings=Settings(), **options)
        made = SearchPlan.of(
            f"{METHOD}:digits", [], "objective.weights", settings=Settings(), **options
        )
        self.assertEqual(made.names, ("one", "zero"))


@pytest.mark.full
class EvolveTest(absltest.TestCase):
    def run_cli(self, argv):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as err:
            self.assertEqual(cli.run(argv), 0, err.getvalue())
        return out.getvalue()

    def test_killed_it_resumes_with_the_same_population(self):
        folder = Path(self.create_tempdir().full_path)
        argv = ["evolve", f"--config={METHOD}:digits", "--population=2", "--generations=2"]
        whole, killed = folder / "whole", folder / "killed"
        self.run_cli([*argv, f"--workdir={whole}"])
        child = subprocess.Popen(
            [sys.executable, "-m", "ssl_jax", *argv, f"--workdir={killed}"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 900
        while not (killed / "g01-m00" / "config.json").exists():
            self.assertLess(time.monotonic(), deadline)
            self.assertIsNone(child.poll())
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.assertIn(
            "runs to train: g01-m0", self.run_cli([*argv, f"--workdir={killed}", "--ask"])
        )
        table = self.run_cli([*argv, f"--workdir={killed}"])
        self.assertIn("diag/zipf_kl", table)
        self.assertIn("diag/zipf_entropy", table)
        for name in ("g00-m00", "g00-m01", "g01-m00", "g01-m01"):
            configs = [json.loads((f / name / "config.json").read_text()) for f in (whole, killed)]
            self.assertEqual(configs[0], configs[1])
            last = [study.last_numbers(f / name)["diag/zipf_kl"] for f in (whole, killed)]
            self.assertEqual(last[0], last[1])
        best = [json.loads((f / "best.json").read_text()) for f in (whole, killed)]
        self.assertEqual(best[0], best[1])
        self.assertEqual(set(best[0]), {"one", "zero"})


if __name__ == "__main__":
    absltest.main()
