"""Real training processes to disturb, and checks that nothing was lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from ssl_jax.core.tree import named_leaves
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import workdir
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[2]
QUICK = (
    "--config.train.batch_size=32",
    "--config.train.log_every=1",
    "--config.evals.fewshot.draws=2",
    "--config.evals.clustering.runs=1",
)
# The smallest run that is still one: width 4, a batch of 32, every step logged.
TINY = (
    "--config=simclr:digits",
    "--config.objective.projector=(8,8)",
    "--config.backbone.width=4",
    *QUICK,
)
# A method whose step 5 never ends. It leaves the file `hanging` beside its own once it hangs.
HANGS = """
import pathlib
import time
import jax
from ssl_jax.objectives.simclr import SimCLR

def hang(step):
    if int(step) == 5:
        pathlib.Path(__file__).with_name("hanging").touch()
        time.sleep(600)

class Hanging(SimCLR):
    def loss(self, params, extra, batch, key, step):
        jax.debug.callback(hang, step)
        return super().loss(params, extra, batch, key, step)

make = Hanging.make
"""
LIMIT = 600.0  # seconds after which a test gives up on a process


@dataclass
class Run:
    """`ssl-jax train` in `folder`, which can be started repeatedly."""

    folder: Path
    flags: Sequence[str] = TINY
    devices: int = 1

    def start(self, *more: str, preexec: Callable[[], None] | None = None, **env: str):
        """Start the process, with its output in pipes."""
        path = os.pathsep.join(filter(None, (env.pop("PYTHONPATH", ""), str(ROOT))))
        words = [f"--workdir={self.folder}"]
        return subprocess.Popen(
            [sys.executable, "-m", "ssl_jax", "train", *words, *self.flags, *more],
            cwd=ROOT,
            env=os.environ
            | {"JAX_NUM_CPU_DEVICES": str(self.devices), "PYTHONPATH": path, "COLUMNS": "200"}
            | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,
        )

    def end(self, *more: str, code: int = 0, **how) -> str:
        """Run until it exits; return all that it printed.

        Raises:
          AssertionError: it ended with another exit code, or showed a traceback.
        """
        return ended(self.start(*more, **how), code)

    def reached(self) -> int:
        """Return the last step in the metrics file, -1 if there is none."""
        lines = read_metrics(self.folder)
        return int(lines[-1]["step"]) if lines else -1

    def wait(self, process, until: Callable[[], bool]) -> None:
        """Wait until the condition holds.

        Raises:
          AssertionError: the process ended before, or it takes too long.
        """
        deadline = time.monotonic() + LIMIT
        while not until():
            if process.poll() is not None:
                raise AssertionError(f"it ended too early: {process.communicate()}")
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.005)

    def kill(self, process) -> int:
        """Send SIGKILL; return the last step that was logged."""
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return self.reached()

    def metrics(self) -> list[dict[str, float]]:
        """Return the lines of the metrics file, without timings."""
        return [
            {k: v for k, v in line.items() if not k.startswith("perf/")}
            for line in read_metrics(self.folder)
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything in the newest checkpoint, by name."""
        experiment = Experiment.from_config(
            workdir.read_config(self.folder), self.folder, jax.devices()[:1]
        )
        with Checkpoints(self.folder / "checkpoints", reader=True) as checkpoints:
            state = checkpoints.restore(
                max(checkpoints.steps), experiment.abstract_state, experiment.placed
            )
        return {name: np.asarray(leaf) for name, leaf in named_leaves(state).items()}

    def differences(self, other: "Run") -> list[str]:
        """List what differs bitwise between both finished runs; empty if nothing does."""
        names = []
        mine, theirs = self.metrics(), other.metrics()
        if json.dumps(mine) != json.dumps(theirs):
            lines = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b]
            names.append(f"metrics: {len(mine)} and {len(theirs)} lines, differing {lines[:5]}")
        a, b = self.arrays(), other.arrays()
        names += sorted(a.keys() ^ b.keys())
        return names + [k for k in a.keys() & b.keys() if a[k].tobytes() != b[k].tobytes()]


def meeting() -> str:
    """Return the flag by which several processes connect, with a free port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"--coordinator=127.0.0.1:{s.getsockname()[1]}"


def two(run: Run, *more: str, preexecs: Sequence[Callable[[], None] | None] = (None, None)) -> list:
    """Start both processes of a run in two."""
    where = meeting()
    return [
        run.start(where, "--num_processes=2", f"--process_id={i}", *more, preexec=preexec)
        for i, preexec in enumerate(preexecs)
    ]


def ended(process, code: int = 0) -> str:
    """Wait for a process to exit with `code`; return its output."""
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, f"exit code {process.returncode}, not {code}: {out}{err}"
    assert "Traceback" not in err, err
    return out + err
