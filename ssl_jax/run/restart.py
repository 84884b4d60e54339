"""Restart a training command until it is done; a run resumes from its newest checkpoint."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_jax.core import trust
from ssl_jax.core.watch import FINAL, INTERRUPTED, LOST
from ssl_jax.training.manifest import steps

CHILD = "SSL_JAX_RESTARTED"  # environment variable that marks the process that trains
PAUSE = 5.0  # seconds before a restart, so that all processes of a run have ended
REASONS = {
    LOST: "asked to end, or another process was lost",
    -signal.SIGABRT: "aborted; if JAX says so above, another process was lost",
    -signal.SIGKILL: "killed; out of memory, perhaps",
}


def until_done(argv: Sequence[str], folder: Path, times: int) -> int:
    """Run `ssl-jax ARGV` in a child until it succeeds, until it fails in a way that a restart
    cannot fix (exit code 2, an error of the user's, or 130, Ctrl-C), or until this process receives
    SIGTERM.

    Args:
      argv: the command, which may still contain its `--restarts`.
      folder: the run's folder, whose checkpoints show the progress.
      times: restarts in a row without a newer checkpoint, after which it gives up.

    Returns:
      The exit code of the last attempt.
    """
    command, env = trust.python("ssl_jax")
    remaining, reached = times, newest(folder)
    while True:
        code, terminated = _child([*command, *argv], env)
        if terminated or code in (0, FINAL, INTERRUPTED):
            return code if code >= 0 else 128 - code
        before, reached = reached, newest(folder)
        remaining = times if reached > before else remaining
        why = f"exit code {code}, {REASONS.get(code, 'see above')}"
        if remaining == 0:
            _say(f"gave up after {times} restart(s) without a newer checkpoint ({why})")
            return code if code >= 0 else 128 - code
        remaining -= 1
        _say(f"restarting from step {max(reached, 0)} ({why})")
        time.sleep(PAUSE)


def newest(folder: Path) -> int:
    """Return the step of the newest checkpoint in `folder`, -1 if there is none."""
    return max(steps(folder / "checkpoints"), default=-1)


def _child(command: Sequence[str], env: Mapping[str, str]) -> tuple[int, bool]:
    """Run the command; return its exit code and whether this process received SIGTERM, which is
    passed on. Ctrl-C reaches both processes; the child decides what to do.
    """
    terminated = False
    process = subprocess.Popen(command, env={**env, CHILD: "1"})

    def end(*_: Any) -> None:
        nonlocal terminated
        terminated = True
        process.terminate()

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, end),
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
    }
    try:
        return process.wait(), terminated
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(f"ssl-jax: {text}", file=sys.stderr, flush=True)
