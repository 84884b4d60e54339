"""TensorBoard's event files, in the folder `events` of the run."""

import json
import time
from collections.abc import Mapping, Sequence

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import text

from ssl_jax.evals.records import Record
from ssl_jax.run.logger import LoggedRun, Logger, Outcome

FLUSH = 30.0  # seconds between two times that events reach the disk


class TensorBoard(Logger):
    """TensorBoard drops from older files everything from the step on at which a new one starts.

    Written directly: tensorboardX's `SummaryWriter` hangs once its thread has met a full disk.
    """

    rewrites = True

    def __init__(self, run: LoggedRun, id: str):
        self._folder, self._config = run.folder / "events", run.config
        self._folder.mkdir(exist_ok=True)
        self.fresh = not any(self._folder.iterdir())
        self._file: EventsWriter | None = None
        self._step = 0

    def start(self, step: int) -> None:
        if self._file is not None:
            self._file.close()
        # The rest of the name is the second and the host: not enough where a run rolls back.
        self._file = EventsWriter(str(self._folder / "events"), f".{time.time_ns()}")
        session = SessionLog(status=SessionLog.START)
        self._file.write_event(Event(step=step + 1, session_log=session))
        self._flushed, self._step = time.monotonic(), max(step, 0)
        self._write_json("config", self._config)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._step = step
        for name, value in values.items():  # tensorboardX's `scalar` prints a line for each NaN
            self._add(step, Summary(value=[Summary.Value(tag=name, simple_value=value)]))
        if time.monotonic() - self._flushed > FLUSH:  # it is an fsync
            self._flushed = time.monotonic()
            assert self._file is not None
            self._file.flush()

    def results(self, summary: Mapping[str, float], records: Sequence[Record]) -> None:
        self._write_json("summary", summary)
        if records:
            self._write_json("evaluations", list(records))

    def close(self, outcome: Outcome) -> None:
        if self._file is not None:
            self._file.close()

    def _write_json(self, name: str, value: object) -> None:
        code = json.dumps(value, indent=2)  # indented by four more, it is code in Markdown
        self._add(self._step, text(name, "    " + code.replace("\n", "\n    ")))

    def _add(self, step: int, summary: Summary) -> None:
        assert self._file is not None
        self._file.write_event(Event(step=step, wall_time=time.time(), summary=summary))
