"""W&B, MLflow and Aim, without a network: they hold the numbers of metrics.jsonl. Each test needs
the extra of its name: `pip install -e '.[wandb]'`.
"""

import contextlib
import importlib.util
import json
import math
import os
import struct
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from absl.testing import absltest

from ssl_jax.core.plain import from_json
from ssl_jax.evals.records import ResultsFile
from ssl_jax.run import loggers
from ssl_jax.run.logger import LoggedRun
from ssl_jax.training.metrics import MetricsWriter, read_metrics
from tests.run.loggers_test import points, shown

CONFIG = {"objective": {"name": "simclr"}, "train": {"batch_size": 32, "online_probe": None}}
RECORD = {
    **{"workdir": "W", "method": "simclr", "seed": 0, "step": 40, "protocol": "knn"},
    **{"settings": {"k": 20}, "results": {"eval/knn_top1": 0.75}},
}
TRACKERS = ("wandb", "mlflow", "aim")
Curves = dict[tuple[str, int], list[float]]  # (metric, step) -> every value the tracker has of it


def wandb_records(folder: Path):
    """Yield the records of W&B's offline files, which have the format of LevelDB's log."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""  # 7 bytes name the format
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:  # the rest of a block that holds no header
                at += left
                continue
            length, kind = struct.unpack_from("<HB", data, at + 4)
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # a full record, or the last part of one
                yield path, Record.FromString(whole)
                whole = b""


def wandb_curves(folder: Path) -> Curves:
    curves: Curves = {}
    for _, record in wandb_records(folder):
        items = {item.key or ".".join(item.nested_key): item for item in record.history.item}
        row = {key: from_json(item.value_json) for key, item in items.items()}
        if "step" in row:
            for name, value in row.items():
                if name != "step" and not name.startswith(("_", "evaluations")):
                    curves.setdefault((name, row["step"]), []).append(float(value))
    return curves


def mlflow_run():
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = (e for e in client.search_experiments() if e.name == "ssl_jax")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def mlflow_curves(folder: Path) -> Curves:
    client, run = mlflow_run()
    curves: Curves = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            curves.setdefault((name, metric.step), []).append(metric.value)
    return curves


def aim_run(folder: Path):
    import aim

    (name,) = aim.Repo.from_path(str(folder)).list_all_runs()
    options = {"system_tracking_interval": None, "capture_terminal_logs": False}
    # A closed run can be read without write access only once `aim up` has indexed it.
    return aim.Run(name, repo=str(folder), force_resume=True, **options)


def aim_curves(folder: Path) -> Curves:
    curves: Curves = {}
    for metric in aim_run(folder).metrics():
        steps, (values, *_) = metric.data.items_list()
        for step, value in zip(steps, values, strict=True):
            curves.setdefault((metric.name, step), []).append(value)
    return curves


def values(step: int, second: bool) -> list[dict[str, float]]:
    """Return the lines of a step; the rates differ when it is made a second time."""
    rate = 100.0 + second
    evaluated = {"eval/knn_top1": step / 100, "eval/score": math.nan}
    trained = {"train/loss": 1 / (step + 1), "perf/steps_per_second": rate}
    return [trained, evaluated] if step % 20 == 10 else [trained]


@pytest.mark.full
class TrackersTest(absltest.TestCase):
    """A run to step 30, resumed from step 20, and opened again when it has finished."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.names = [name for name in TRACKERS if importlib.util.find_spec(name)]
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory())).resolve()
        cls.enterClassContext(contextlib.chdir(cls.folder))
        cls.enterClassContext(
            mock.patch.dict(
                os.environ,
                WANDB_MODE="offline",
                MLFLOW_TRACKING_URI=f"file://{cls.folder}/mlruns",
                MLFLOW_ALLOW_FILE_STORE="true",
            )
        )
        cls.run_ = cls.folder / "W"
        cls.run_.mkdir()
        cls.warnings = []
        if not cls.names:
            pytest.skip("none of wandb, mlflow and aim is installed")
        names = ["tensorboard", *cls.names]
        cls.process(names, -1, [0, 10, 20, 30])
        cls.memory = json.loads((cls.run_ / loggers.MEMORY).read_text())
        cls.process(names, 20, [30, 40], second=True)
        ResultsFile(cls.run_ / "eval" / "results.jsonl").append(RECORD)
        cls.process(names, 40, [], second=True)
        cls.after = json.loads((cls.run_ / loggers.MEMORY).read_text())
        cls.lines = points(read_metrics(cls.run_))

    @classmethod
    def process(cls, names, start, steps, second=False):
        run = LoggedRun(cls.run_, CONFIG)
        with (
            MetricsWriter(cls.run_, start) as writer,
            loggers.Loggers(names, run, cls.warnings.append) as logged,
        ):
            logged.start(start, writer.lines, writer.reached)
            for step in steps:
                for line in values(step, second):
                    writer.write(step, line)
                    logged.write(step, line)
            if second:
                logged.finish(writer.last)

    def compare(self, curves: Curves, rewrites: bool):
        """Compare all values but, in trackers that keep the first, rates of steps made twice."""
        expected = {(name, step): value for name, step, value in self.lines}
        self.assertEqual({key for key, v in curves.items() if len(v) > 1}, set())
        self.assertEqual(curves.keys(), expected.keys())
        for (name, step), value in expected.items():
            if rewrites or step != 30 or not name.startswith("perf/"):
                (logged,) = curves[name, step]
                self.assertTrue(
                    math.isclose(logged, value, rel_tol=1e-6)
                    or (math.isnan(logged) and math.isnan(value)),
                    f"{name}, step {step}: {logged}, expected {value}",
                )

    def needs(self, name: str):
        if name not in self.names:
            pytest.skip(f"{name} is not installed")

    def test_the_run_is_the_same(self):
        self.assertEqual(self.warnings, [])
        self.assertCountEqual(self.after, self.names)
        for name in self.names:
            self.assertEqual(self.after[name]["id"], self.memory[name]["id"])
            self.assertFalse(self.after[name]["open"])

    def test_tensorboard(self):
        self.compare(shown(self.run_ / "events"), rewrites=True)

    def test_wandb(self):
        self.needs("wandb")
        self.compare(wandb_curves(self.run_), rewrites=False)
        records = [record for _, record in wandb_records(self.run_)]
        runs = [record.run for record in records if record.HasField("run")]
        self.assertEqual({run.run_id for run in runs}, {self.memory["wandb"]["id"]})
        config = {item.key: from_json(item.value_json) for item in runs[0].config.update}
        self.assertEqual(config["train"]["batch_size"], 32)
        tables = list(self.run_.glob("wandb/offline-run-*/files/media/table/*.json"))
        table = json.loads(tables[-1].read_text())
        self.assertIn("eval/knn_top1", [row[3] for row in table["data"]])

    def test_mlflow(self):
        self.needs("mlflow")
        self.compare(mlflow_curves(self.folder), rewrites=False)
        _, run = mlflow_run()
        self.assertEqual(run.info.status, "FINISHED")
        self.assertEqual(run.data.params["train.batch_size"], "32")
        files = Path(run.info.artifact_uri.removeprefix("file://"))
        summary = json.loads((files / "summary.json").read_text())
        self.assertIn("train/loss", summary)
        (record,) = json.loads((files / "evaluations.json").read_text())["records"]
        self.assertIn("eval/knn_top1", record["results"])

    def test_mlflow_in_a_database(self):
        """A database is the default of MLflow."""
        self.needs("mlflow")
        for package in ("sqlalchemy", "alembic"):  # of the extra
            pytest.importorskip(package)
        uri = f"sqlite:///{self.folder}/mlflow.db"
        with mock.patch.dict(os.environ, MLFLOW_TRACKING_URI=uri):
            self.process(["mlflow"], 40, [])  # which knows nothing yet
            self.assertEqual(self.warnings, [])
            self.compare(mlflow_curves(self.folder), rewrites=True)

    def test_aim(self):
        self.needs("aim")
        self.compare(aim_curves(self.folder), rewrites=True)
        run = aim_run(self.folder)
        self.assertEqual(run.hash, self.memory["aim"]["id"])
        self.assertEqual(run["config", "train", "batch_size"], 32)
        self.assertIn("train/loss", run["summary"])
        self.assertIn("eval/knn_top1", run["evaluations"][0]["results"])


if __name__ == "__main__":
    absltest.main()
