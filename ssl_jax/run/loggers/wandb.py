"""Weights & Biases. `WANDB_MODE=offline` writes to the run's folder only; see docs/logging.md."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence

from ssl_jax.evals.records import Record
from ssl_jax.run.logger import EXPERIMENT, LoggedRun, Logger, Outcome

COLUMNS = ("step", "protocol", "data", "number", "value", "settings")


class Wandb(Logger):
    """A run of W&B. The training step is a metric of its own, `step`, and the x-axis of all others:
    W&B's internal step may only grow, and would refuse the line of an evaluation that comes late.
    """

    packages = ("wandb",)

    def __init__(self, run: LoggedRun, id: str):
        import wandb

        self._wandb = wandb
        self.fresh, self.id = not id, id or secrets.token_hex(4)
        self._run = wandb.init(
            id=self.id,
            resume="allow",
            name=None if "WANDB_NAME" in os.environ else run.folder.name,
            project=None if "WANDB_PROJECT" in os.environ else EXPERIMENT,
            dir=None if "WANDB_DIR" in os.environ else str(run.folder),
            config=dict(run.config),
            allow_val_change=True,
            # The progress line and W&B's messages would garble each other.
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        folder = f"{self._run.settings.sync_dir} (offline: wandb sync uploads it)"
        self.place = folder if self._run.offline else self._run.url

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def results(self, summary: Mapping[str, float], records: Sequence[Record]) -> None:
        self._run.summary.update(dict(summary))
        rows = [
            [
                *(record["step"], record["protocol"], record.get("data", "")),
                *(name, float(value), json.dumps(record["settings"])),
            ]
            for record in records
            for name, value in record["results"].items()
        ]
        if rows:
            self._run.log({"evaluations": self._wandb.Table(columns=list(COLUMNS), data=rows)})

    def close(self, outcome: Outcome) -> None:
        self._run.finish(exit_code=0 if outcome == "finished" else 1)
