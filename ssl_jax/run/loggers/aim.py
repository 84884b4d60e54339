"""Aim, in the repository that its own settings name; see docs/logging.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_jax.evals.records import Record
from ssl_jax.run.logger import EXPERIMENT, LoggedRun, Logger, Outcome


class Aim(Logger):
    """A run of Aim, which replaces the value of a step that is logged again."""

    packages = ("aim",)
    rewrites = True

    def __init__(self, run: LoggedRun, id: str):
        import aim

        self._run: Any = aim.Run(
            run_hash=id or None,
            force_resume=True,  # the lock of a killed process; the run's folder has its own
            experiment=EXPERIMENT,
            system_tracking_interval=None,  # it would watch the machine in a thread
            capture_terminal_logs=False,
        )
        self.id, self.fresh = self._run.hash, self._run.hash != id
        self._run.name = run.folder.name
        self._run["config"] = dict(run.config)
        self.place = f"{self._run.repo.path}, run {self.id}"

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._run.track(float(value), name=name, step=step)

    def results(self, summary: Mapping[str, float], records: Sequence[Record]) -> None:
        self._run["summary"] = dict(summary)
        if records:
            self._run["evaluations"] = list(records)

    def close(self, outcome: Outcome) -> None:
        self._run["outcome"] = outcome
        self._run.close()
