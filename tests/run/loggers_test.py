"""Loggers: what they receive when runs resume, fail or are killed; TensorBoard's files; names."""

import contextlib
import importlib.util
import io
import json
import math
import struct
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized
from tensorboardX.proto.event_pb2 import Event

from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.run import loggers
from ssl_jax.run.logger import LoggedRun, Logger
from ssl_jax.run.loggers import Loggers
from ssl_jax.training.metrics import MetricsWriter, read_metrics


def points(lines):
    """Return (metric, step, value) of lines of metrics.jsonl."""
    return [(name, line["step"], v) for line in lines for name, v in line.items() if name != "step"]


def events(folder: Path) -> list[Event]:
    """Read all event files of a folder, oldest first."""
    read = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length (8), its checksum (4), the event, its checksum (4)
            (length,) = struct.unpack_from("<Q", data, at)
            read.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return read


def shown(folder: Path) -> dict[tuple[str, int], list[float]]:
    """Return what TensorBoard shows: (metric, step) -> values, without those that it purges."""
    curves: dict[tuple[str, int], list[float]] = {}
    for event in events(folder):
        if event.HasField("session_log"):
            curves = {key: v for key, v in curves.items() if key[1] < event.step}
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                curves.setdefault((value.tag, event.step), []).append(value.simple_value)
    return curves


class Tracker(Logger):
    """A tracker in memory that shows every value that it gets."""

    received: list = []  # of the newest test
    calls: list = []

    def __init__(self, run, id):
        self.id, self.fresh = id or "new", not id
        self.calls.append(f"open {id}")

    def start(self, step):
        self.calls.append(f"start {step}")

    def write(self, step, values):
        self.received.extend((name, step, value) for name, value in values.items())

    def results(self, summary, records):
        self.calls.append(("results", summary, records))

    def close(self, outcome):
        self.calls.append(f"close {outcome}")


class Replacing(Tracker):
    rewrites = True


class LoggersTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.warnings = []
        Tracker.received.clear()
        Tracker.calls.clear()

    def opened(self, *targets):
        return Loggers(targets, LoggedRun(self.folder, {"a": 1}), self.warnings.append)

    def process(self, targets, start, steps, factor=1.0, killed=False):
        """Train from `start` as the trainer does; with `killed`, end without a close."""
        logged = self.opened(*targets)
        with MetricsWriter(self.folder, start) as writer, contextlib.ExitStack() as stack:
            if not killed:
                stack.enter_context(logged)
            logged.start(start, writer.lines, writer.reached)
            for step, name in steps:
                writer.write(step, {name: step * factor})
                logged.write(step, {name: step * factor})

    @parameterized.parameters(False, True)
    def test_no_step_is_sent_twice(self, killed):
        """The second process resumes from step 2; the first was closed, or killed at step 4."""
        steps = [(s, "loss") for s in (0, 2, 4)]
        self.process([Tracker], -1, steps, killed=killed)
        self.process([Tracker], 2, [(4, "loss"), (4, "eval"), (6, "loss")])
        self.assertEqual(Tracker.received, points(read_metrics(self.folder)))
        self.assertIn("open new", Tracker.calls)

    def test_an_evaluation_that_was_left_to_the_next_process(self):
        self.process([Tracker], -1, [(2, "eval"), (4, "loss")])
        self.process([Tracker], 4, [(4, "eval"), (5, "loss")])
        self.assertEqual(Tracker.received, points(read_metrics(self.folder)))

    def test_values_of_steps_made_again(self):
        for cls, expected in ((Tracker, [0, 2, 4, 60]), (Replacing, [0, 2, 4, 40, 60])):
            self.setUp()
            self.process([cls], -1, [(s, "loss") for s in (0, 2, 4)])
            self.process([cls], 2, [(s, "loss") for s in (4, 6)], factor=10)
            self.assertEqual([value for _, _, value in Tracker.received], expected, cls)

    def test_a_logger_that_comes_later_gets_what_was_before(self):
        self.process([], -1, [(0, "loss"), (2, "loss")])
        self.process([Tracker], 2, [(4, "loss")])
        self.process([], 4, [(6, "loss")])
        self.process([Tracker], 6, [(8, "loss")])
        self.assertEqual(Tracker.received, points(read_metrics(self.folder)))

    def test_a_rollback_in_one_process(self):
        for cls, expected in ((Tracker, [0.0, 2.0, 3.0]), (Replacing, [0.0, 2.0, 20.0, 30.0])):
            self.setUp()
            with self.opened(cls) as logged:
                logged.start(-1, [], {})
                logged.write(0, {"loss": 0.0})
                logged.write(2, {"loss": 2.0})
                logged.start(0, [{"step": 0, "loss": 0.0}], {"loss": 2})
                logged.write(2, {"loss": 20.0})
                logged.write(3, {"loss": 3.0 if cls is Tracker else 30.0})
            self.assertEqual([value for _, _, value in Tracker.received], expected)

    def test_memory_that_was_edited(self):
        for text in ("[]", '{"Tracker": {"id": 3}}', "{", '{"Tracker": 1}'):
            (self.folder / loggers.MEMORY).write_text(text)
            with self.opened(Tracker) as logged:
                logged.start(-1, [], {})
            self.assertStartsWith(Tracker.calls[-3], "open ")
            memory = json.loads((self.folder / loggers.MEMORY).read_text())
            self.assertEqual(memory["Tracker"]["id"], "new")

    @parameterized.parameters("__init__", "start", "write", "results", "close")
    def test_a_logger_that_fails(self, method):
        """It is reported once, and the others go on."""
        broken = type("Broken", (Tracker,), {})
        lines = []
        error = RuntimeError("no network\nat all")
        with (
            mock.patch.object(broken, method, side_effect=error),
            self.opened(broken, lambda step, values: lines.append(step)) as logged,
        ):
            logged.start(-1, [], {})
            for step in (1, 2):
                logged.write(step, {"loss": 0.5})
            logged.finish({"loss": 0.5})
        self.assertEqual(lines, [1, 2])
        (warning,) = self.warnings
        self.assertRegex(warning, "^--log=Broken: .*training continues: RuntimeError: no network$")

    def test_what_a_failed_logger_misses_is_sent_by_the_next_process(self):
        with mock.patch.object(Tracker, "write", side_effect=[None, RuntimeError("down")]):
            self.process([Tracker], -1, [(s, "loss") for s in (1, 2, 3)])
        self.process([Tracker], 3, [(4, "loss")])
        self.assertEqual([step for _, step, _ in Tracker.received], [2, 3, 4])

    def test_how_it_ended(self):
        outcomes = {None: "finished", KeyboardInterrupt: "interrupted", UserError: "failed"}
        for error, outcome in outcomes.items():
            with contextlib.suppress(BaseException), self.opened(Tracker) as logged:
                logged.start(-1, [], {})
                if error:
                    raise error
                logged.finish({"loss": 1.0})
            self.assertEqual(Tracker.calls[-1], f"close {outcome}")
        self.assertIn(("results", {"loss": 1.0}, []), Tracker.calls)

    def test_tensorboard_shows_each_step_once(self):
        self.process(["tensorboard"], -1, [(s, "loss") for s in (0, 2, 4)])
        self.process(["tensorboard"], 2, [(4, "loss"), (6, "loss")], factor=0.5)
        curves = shown(self.folder / "events")
        lines = points(read_metrics(self.folder))
        self.assertEqual(curves, {(name, step): [value] for name, step, value in lines})
        self.assertFalse((self.folder / loggers.MEMORY).exists())
        tags = {value.tag for e in events(self.folder / "events") for value in e.summary.value}
        self.assertEqual(tags, {"loss", "config/text_summary"})

    def test_tensorboard_gets_what_is_no_score_without_a_word(self):
        with self.assertNoLogs(level="WARNING"):
            self.process(["tensorboard"], -1, [(1, "eval/knn_top1")], factor=math.nan)
        (value,) = shown(self.folder / "events")["eval/knn_top1", 1]
        self.assertTrue(math.isnan(value))

    def test_events_that_cannot_be_written(self):
        (self.folder / "events").touch()
        self.process(["tensorboard"], -1, [(1, "loss")])
        self.assertLen(read_metrics(self.folder), 1)
        effect = "nothing is logged there, training continues"
        self.assertEqual(
            self.warnings, [f"--log=tensorboard: {effect}: {self.folder}/events: File exists"]
        )

    def test_names(self):
        self.assertContainsSubset({"tensorboard", "wandb", "mlflow", "aim"}, loggers.known())
        for name in loggers.known():
            self.assertTrue(issubclass(loggers.class_of(name), Logger))
        loggers.check(())
        loggers.check(("none",))
        with self.assertRaisesRegex(UserError, "--log=wanb: unknown logger; did you mean 'wandb'"):
            loggers.check(("tensorboard", "wanb"))
        with self.assertRaisesRegex(UserError, "--log=none: .*alone"):
            loggers.check(("tensorboard", "none"))

    def test_a_missing_package_is_refused_before_training(self):
        find, err = importlib.util.find_spec, io.StringIO()
        without = lambda name: None if name == "wandb" else find(name)  # noqa: E731
        arguments = ["train", "--config=simclr:digits", f"--workdir={self.folder}/W"]
        with mock.patch("importlib.util.find_spec", without), contextlib.redirect_stderr(err):
            self.assertEqual(cli.run([*arguments, "--log=tensorboard,wandb"]), 2)
        (line,) = err.getvalue().splitlines()
        self.assertRegex(line, r"--log=wandb: the package wandb is not installed; .*'\.\[wandb\]'")
        self.assertFalse((self.folder / "W").exists())


if __name__ == "__main__":
    absltest.main()
