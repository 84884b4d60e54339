"""The loop's order, its resume, and its stop at a loss that is not finite."""

import contextlib
import io
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized
from rich.console import Console

from ssl_jax.core.errors import UserError
from ssl_jax.core.stop import Interrupted
from ssl_jax.training import loop
from ssl_jax.training.progress import ProgressLine, duration


class LoopTest(parameterized.TestCase):
    def run_loop(
        self,
        start,
        stop,
        bad_at=None,
        log_every=1,
        saved=None,
        end_at=None,
        skipped=0,
        cut="",
        **how,
    ):
        """`cut` is the event that somebody interrupts."""
        events = []
        saved = [] if saved is None else saved

        def note(event):
            events.append(event)
            if event == cut:
                raise Interrupted

        def step(state, batch):
            note(f"step {state}")
            bad = -1 if bad_at is None or state < bad_at else bad_at
            metrics = {"train/loss": np.float32(state), "bad_step": np.int32(bad)}
            metrics["skipped"] = np.int32(skipped)
            return state + 1, metrics

        def batches():
            for i in range(start, stop):
                note(f"batch {i}")
                yield {"index": np.zeros(4)}

        def evaluate(state, at):
            note(f"evaluate {at}")
            return {"eval/x": 1.0}

        hooks = loop.Hooks(
            evaluate=evaluate,
            evaluate_at=lambda s: s % 2 == 0,
            save=lambda state, at, evaluated: (
                saved.append(at),
                events.append(f"save {at}" + ("" if evaluated else ", not evaluated")),
            ),
            save_at=lambda s: s == 2,
            log=lambda at, values: events.append(f"log {at} {sorted(values)[0]}"),
            refresh=lambda state: note("refresh") or state,
            refresh_at=lambda s: s == 2,
            end_at=lambda s: s == end_at,
        )
        with jax.transfer_guard("allow"):
            out, reached = loop.run(
                start, step, batches(), hooks,
                start=start, stop=stop, batch_size=4, log_every=log_every, **how,
            )  # fmt: skip
        self.assertEqual(out, reached)
        if not cut:
            self.assertEqual(reached, stop if end_at is None else end_at)
        return events

    def test_the_order(self):
        self.assertEqual(
            self.run_loop(0, 3),
            [
                "evaluate 0", "log 0 eval/x", "batch 0", "step 0",
                "batch 1", "step 1", "log 1 perf/data_wait",
                "log 2 perf/data_wait", "evaluate 2", "log 2 eval/x", "save 2", "refresh",
                "batch 2", "step 2", "log 3 perf/data_wait",
            ],
        )  # fmt: skip

    @parameterized.parameters(
        (0.0, "step 1, done 1, step 2, done 2, step 3, done 3, step 4, done 4"),
        (9.0, "step 1, done 1, step 2, step 3, done 2, step 4, done 3"),
    )
    def test_no_step_runs_ahead_of_a_long_one(self, long, expected):
        events = []

        class Flag:
            def __init__(self, step):
                self.step = step

            def __array__(self, dtype=None, copy=None):
                return np.array(-1)

            def block_until_ready(self):
                events.append(f"done {self.step}")
                return self

        def step(state, batch):
            events.append(f"step {state + 1}")
            return state + 1, {"bad_step": Flag(state + 1), "skipped": 0}

        with mock.patch.object(loop, "LONG", long), jax.transfer_guard("allow"):
            loop.run(
                0,
                step,
                iter([{"index": np.zeros(4)}] * 4),
                loop.Hooks(
                    evaluate=lambda state, at: {},
                    evaluate_at=lambda at: False,
                    save=lambda state, at, evaluated: None,
                    save_at=lambda at: False,
                    log=lambda at, values: None,
                ),
                start=0,
                stop=4,
                batch_size=4,
                log_every=100,
            )
        self.assertEqual(", ".join(dict.fromkeys(events)), expected)

    @parameterized.parameters(
        (None, [(1, 1), (3, 3), (4, 4)]),  # not around the first step, nor after a refresh
        (3, [(1, 1), (3, 3)]),
    )
    def test_a_long_step_has_the_state_before_it(self, request, expected):
        around, saved, ran = [], [], []

        @contextlib.contextmanager
        def long_step(state, at):
            around.append((state, at))
            if at == request:
                raise Interrupted
            yield

        def step(state, batch):
            ran.append(state)
            return state + 1, {"bad_step": np.int32(-1), "skipped": np.int32(0)}

        hooks = loop.Hooks(
            evaluate=lambda state, at: {},
            evaluate_at=lambda at: False,
            save=lambda state, at, evaluated: saved.append((state, at, evaluated)),
            save_at=lambda at: False,
            log=lambda at, values: None,
            refresh_at=lambda at: at == 2,
            long_step=long_step,
        )
        with mock.patch.object(loop, "LONG", 0.0), jax.transfer_guard("allow"):
            batches = iter([{"index": np.zeros(4)}] * 5)
            loop.run(0, step, batches, hooks, start=0, stop=5, batch_size=4, log_every=100)
        self.assertEqual(around, expected)
        self.assertEqual(saved, [(3, 3, True)] if request else [])
        self.assertEqual(ran, [0, 1, 2] if request else [0, 1, 2, 3, 4])

    def test_a_resumed_run_does_not_repeat_what_came_before_its_save(self):
        self.assertEqual(
            self.run_loop(2, 3), ["refresh", "batch 2", "step 2", "log 3 perf/data_wait"]
        )

    def test_asked_to_end_it_saves_and_leaves_the_evaluation_to_the_next_part(self):
        events = self.run_loop(1, 9, end_at=2)
        self.assertEqual(events[-2:], ["log 2 perf/data_wait", "save 2, not evaluated"])
        events = self.run_loop(2, 3, evaluated=False)
        self.assertEqual(events[:3], ["evaluate 2", "log 2 eval/x", "refresh"])
        events = self.run_loop(0, 9, end_at=1)  # nothing is due there
        self.assertEqual(events[-2:], ["log 1 perf/data_wait", "save 1"])

    @parameterized.parameters(
        (0, "evaluate 0", []),  # nothing was trained
        (0, "batch 0", []),
        (0, "step 0", []),  # the compilation
        (2, "refresh", []),  # of a run that goes on: step 2 is saved
        (2, "step 2", []),
        (0, "batch 1", ["save 1"]),
        (0, "evaluate 2", ["save 2, not evaluated"]),
        (1, "refresh", ["save 2", "save 2"]),  # the second one `Checkpoints` leaves out
        (1, "evaluate 4", ["save 2", "save 4, not evaluated"]),
    )
    def test_what_is_cut_short_is_left_out_and_the_steps_are_saved(self, start, cut, saves):
        events = self.run_loop(start, 9, cut=cut)
        self.assertEqual([e for e in events if e.startswith("save")], saves)
        after = events[events.index(cut) + 1 :]
        self.assertFalse([e for e in after if not e.startswith(("log", "save"))])

    def test_a_bad_state_is_not_saved_by_who_is_asked_to_end(self):
        saved = []
        with self.assertRaisesRegex(loop.NotFinite, "not finite at step 1"):
            self.run_loop(0, 9, bad_at=1, log_every=100, saved=saved, end_at=2)
        self.assertEqual(saved, [])

    def test_only_every_so_many_steps_are_logged_and_the_last(self):
        logged = [
            e for e in self.run_loop(0, 5, log_every=2) if e.startswith("log") and "perf" in e
        ]
        self.assertEqual([e.split()[1] for e in logged], ["2", "4", "5"])

    def test_a_loss_that_is_not_finite_stops_the_run(self):
        with self.assertRaisesRegex(UserError, "not finite at step 1"):
            self.run_loop(0, 5, bad_at=1)

    def test_a_bad_state_is_never_saved(self):
        """Step 1 is not logged, and step 2 saves."""
        saved = []
        with self.assertRaisesRegex(UserError, "not finite at step 1"):
            self.run_loop(0, 5, bad_at=1, log_every=100, saved=saved)
        self.assertEqual(saved, [])

    @parameterized.parameters(
        ({}, "steps and epochs are both 0; set one of them"),
        ({"steps": -3}, "train.steps: expected a whole number of at least 0, got -3"),
        ({"steps": 3, "batch_size": -1}, "train.batch_size: expected .* of at least 1, got -1"),
        ({"steps": 3, "seed": -1}, r"train.seed: expected a whole number in \[0, 4294967295\]"),
        ({"steps": 3, "nonfinite_limit": 0}, "train.nonfinite_limit: expected .* at least 1"),
    )
    def test_bad_configs(self, keys, message):
        with self.assertRaisesRegex(UserError, message):
            loop.TrainConfig(**keys)


class ProgressTest(absltest.TestCase):
    VALUES = {"train/loss": 1.5, "perf/images_per_second": 1234.0, "perf/data_wait": 0.25}
    VALUES["perf/steps_per_second"] = 0.1

    def test_plain_lines_where_there_is_no_terminal(self):
        out = io.StringIO()
        with ProgressLine(Console(file=out, width=100)) as progress:
            progress.begin(0, 10)
            progress.update(1, self.VALUES)
            progress.update(2, self.VALUES)  # too soon
            progress.update(10, self.VALUES | {"perf/mfu": 0.5})  # the last one always
        lines = out.getvalue().splitlines()
        self.assertLen(lines, 2)
        self.assertRegex(
            lines[0], r"step +1/10  loss 1.5000  1,234 img/s  data wait 25%  ETA 1:30$"
        )
        self.assertIn("MFU 50%", lines[1])

    def test_each_phase_is_named_once_and_what_takes_long_in_detail(self):
        out = io.StringIO()
        with ProgressLine(Console(file=out, width=100)) as progress:
            for protocol in ("knn", "fewshot", "clustering"):
                progress.phase("measuring", protocol)
            progress._named -= 10
            progress.phase("measuring", "retrieval")
            progress.phase("saving", brief=True)
            progress.phase("compiling the training step")
            progress.begin(0, 10)
            progress.update(1, self.VALUES)
        self.assertEqual(
            [line.partition("  loss")[0] for line in out.getvalue().splitlines()],
            [
                "measuring ...",
                "measuring: retrieval ...",
                "compiling the training step ...",
                "step      1/10",
            ],
        )

    def test_a_live_line_in_a_terminal(self):
        out = io.StringIO()
        with ProgressLine(Console(file=out, width=100, force_terminal=True)) as progress:
            progress.phase("measuring", "[knn] (1 of 2)")
            progress._live.refresh()
            self.assertIn("measuring: [knn] (1 of 2) ...", out.getvalue())
            progress.begin(0, 10)
            progress.update(4, self.VALUES)
            progress._live.refresh()
            progress.phase("saving", brief=True)
            progress._live.refresh()
            self.assertIn("saving ...", out.getvalue())
            out.truncate(0)
            progress.back("training")
            progress._live.refresh()
        self.assertIn("loss 1.5000", out.getvalue())

    def test_durations(self):
        self.assertEqual([duration(s) for s in (5, 75, 3700)], ["0:05", "1:15", "1:01:40"])


if __name__ == "__main__":
    absltest.main()
