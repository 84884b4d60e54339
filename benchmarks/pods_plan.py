"""Compile a train step for a TPU slice up to the assignment of its memory, without its code.

By then the program is optimized and scheduled and every buffer has its place, so that FLOPs, bytes,
collectives and memory are those of the whole compilation; only the size of the code is unknown.
Making the code takes 70 to 90 % of the compilation. XLA writes what it has assigned into a folder
(`xla_dump_to`); once that is complete, the process that compiles is ended.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KERNEL = "*jit_kernel*.after_optimizations"
LAST = f"{KERNEL}_after_buffer_assignment.txt"  # of the program's dumps the last one


def plan_step(config: Mapping[str, Any], topology: str, hlo: str = "") -> dict[str, Any]:
    """Return `run.compile.compile_step`'s report, with the program's size None; the peak is then
    without it. The text of the program is written to the file `hlo`, if set.

    Raises:
      UserError: the config is invalid or the compiler failed.
    """
    from ssl_jax.core import trust
    from ssl_jax.core.errors import UserError
    from ssl_jax.cost import aot
    from ssl_jax.run.compile import WORKER_ENV, with_spec

    with tempfile.TemporaryDirectory() as folder:
        request = json.dumps({"config": with_spec(config), "topology": topology, "folder": folder})
        env = trust.python("")[1] | WORKER_ENV
        start = time.perf_counter()
        with (Path(folder) / "errors").open("w+") as errors:
            process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                text=True,
            )
            assert process.stdin and process.stdout
            process.stdin.write(request)
            process.stdin.close()
            try:
                text = _wait(process, Path(folder))
            finally:
                os.kill(process.pid, signal.SIGKILL)  # it is not reaped yet
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            lines = process.stdout.read().splitlines()
            printed = [json.loads(line) for line in lines if line.startswith("{")]
            if text is None and (not printed or "facts" in printed[-1]):
                errors.seek(0)
                last = errors.read().strip().splitlines()[-1:] or ["no message"]
                raise UserError(f"the compiler failed: {last[0][:400]}")
        if text is None:
            if "error" in printed[-1]:
                raise UserError(printed[-1]["error"])
            return dict(printed[-1])
        (before,) = printed
        facts = before["facts"] | {
            "compile_seconds": time.perf_counter() - start,
            "compile_cpu_seconds": usage.ru_utime + usage.ru_stime,
        }
        (assigned,) = Path(folder).glob(f"{KERNEL}-buffer-assignment.txt")
        sizes = aot.AssignedBytes(**assigned_bytes(assigned.read_text()), program=None)
        if hlo:
            Path(hlo).write_text(text)
        return dataclasses.asdict(aot.summarize(facts, before["memory"], sizes, text))


def _wait(process: subprocess.Popen[str], folder: Path) -> str | None:
    """Return the optimized program's text once it is complete; None if the process ended first."""
    size = -1
    while not _ended(process.pid):
        for path in folder.glob(LAST):
            if path.stat().st_size == size and size > 0:
                return path.read_text()
            size = path.stat().st_size
        time.sleep(2)
    return None


def _ended(pid: int) -> bool:
    """Return whether a child has ended; it is not reaped, as its CPU time is read later."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def assigned_bytes(text: str) -> dict[str, int]:
    """Sum the buffers of XLA's text of a buffer assignment that lie in HBM (colour 0)."""
    total = {"arguments": 0, "temporary": 0, "results": 0}
    for match in re.finditer(r"^allocation \d+: size (\d+), (.*)$", text, re.MULTILINE):
        size, rest = int(match[1]), match[2]
        if "color" in rest:
            continue
        if ", parameter " in f", {rest}":
            total["arguments"] += size
        elif "preallocated-temp" in rest:
            total["temporary"] += size
        elif "maybe-live-out" in rest or "output shape" in rest:
            total["results"] += size
    return total


def _worker() -> None:
    """Print a description of the step, then compile it; print a report if it does not fit."""
    request = json.load(sys.stdin)
    dump = f"--xla_dump_to={request['folder']} --xla_dump_hlo_as_text"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {dump}".strip()

    import jax

    from ssl_jax.core.errors import UserError
    from ssl_jax.cost import aot
    from ssl_jax.run.compile_worker import devices
    from ssl_jax.run.experiment import Experiment

    try:
        made = Experiment.from_config(request["config"], devices=devices(request["topology"], 1))
        made.check_batch()
        step = aot.prepare(
            made.objective, made.tx, made.schedule, made.mesh, made.abstract_state, made.placed
        )
        print(json.dumps({"facts": step.facts, "memory": step.memory}), flush=True)
        start, busy = time.perf_counter(), time.process_time()
        step.lower().compile()
        signal.pause()  # until the other process has read the last file
    except UserError as e:
        print(json.dumps({"error": str(e)}))
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        facts = step.facts | {
            "compile_seconds": time.perf_counter() - start,
            "compile_cpu_seconds": time.process_time() - busy,
        }
        memory = aot.MemoryUse(**step.memory)
        report = aot.Report(**facts, fits=False, memory=memory, message=aot.why(e))
        print(json.dumps(dataclasses.asdict(report)))


if __name__ == "__main__":
    _worker()
