"""MLflow, at the tracking URI of its own settings (`MLFLOW_TRACKING_URI`); see docs/logging.md."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_jax.evals.records import Record
from ssl_jax.run.logger import EXPERIMENT, LoggedRun, Logger, Outcome
from ssl_jax.training.workdir import flatten

STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
PARAMETERS = 100  # that one request takes
LENGTH = 500  # characters of a parameter that every store takes; config.json has the whole value


class MLflow(Logger):
    """A run of MLflow, sent in the background by MLflow's own queue.

    Parameters cannot be changed in MLflow, so they are those of the run's start; the artifact
    config.json is that of the newest.
    """

    packages = ("mlflow",)

    def __init__(self, run: LoggedRun, id: str):
        from mlflow import MlflowClient, entities

        self._entities, self._client = entities, MlflowClient()
        self.id = id if id and self._exists(id) else self._create(run)
        self.fresh = self.id != id
        self._client.update_run(self.id, status="RUNNING")
        if self.fresh:
            parameters = [
                entities.Param(key, str(value)[:LENGTH])
                for key, value in flatten(run.config).items()
            ]
            for first in range(0, len(parameters), PARAMETERS):
                part = parameters[first : first + PARAMETERS]
                self._client.log_batch(self.id, params=part)
        self._client.log_dict(self.id, dict(run.config), "config.json")
        self.place = f"{self._client.tracking_uri}, run {self.id}"
        self._pending: Any = None  # the newest request, which ends after those before it

    def write(self, step: int, values: Mapping[str, float]) -> None:
        milliseconds = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name, float(value), milliseconds, step)
            for name, value in values.items()
        ]
        self._pending = self._client.log_batch(self.id, metrics=metrics, synchronous=False)

    def results(self, summary: Mapping[str, float], records: Sequence[Record]) -> None:
        self._client.log_dict(self.id, dict(summary), "summary.json")
        if records:
            self._client.log_dict(self.id, {"records": list(records)}, "evaluations.json")

    def close(self, outcome: Outcome) -> None:
        if self._pending is not None:
            self._pending.wait()
        self._client.set_terminated(self.id, STATUS[outcome])

    def _exists(self, id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(id).info.lifecycle_stage == "active")
        except MlflowException:
            return False

    def _create(self, run: LoggedRun) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        created = self._client.create_run(number, run_name=run.folder.name)
        return str(created.info.run_id)
