"""Wall and CPU seconds of a run from the first import to the final table, by phase, and what it
compiles.

    python benchmarks/first_command.py [--config=simclr:digits] [--runs=5] [--base=REV] [--details]

Runs `ssl-jax train --config=CONFIG`, with any further flags, in fresh processes and folders,
without a cache of compiled programs. With --base, the command of another git revision, from a
temporary worktree, alternates with it, and the final metrics of both are compared. Prints one JSON
line of medians: wall seconds, CPU seconds (all threads, user and system), both also by phase of the
progress line, the number of compiled programs, and the seconds of tracing and compiling, which are
parts of the phases. --details splits the evaluations by protocol and lists the metrics and each
program of the last run.
"""

import argparse
import contextlib
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMPILE = "/jax/core/compile/backend_compile_duration"
TRACE = "/jax/core/compile/jaxpr_trace_duration"
LOWER = "/jax/core/compile/jaxpr_to_mlir_module_duration"
TIMES = "perf/"  # prefix of the metrics that differ from run to run


class PhaseClock:
    """Phases and compilations of the command in this process.

    Attributes:
      phases: name -> [wall, CPU] seconds.
      programs: phase, function, wall and CPU seconds of each compilation.
      tracing: seconds of tracing and lowering.
    """

    def __init__(self, began: float):
        self.phases: dict[str, list[float]] = {}
        self.programs: list[tuple[str, str, float, float]] = []
        self.tracing = 0.0
        self._phase, self._since, self._compiling = "imports", (began, 0.0), 0.0

    def enter(self, phase: str) -> None:
        """Start a phase; the time since the last call belongs to the phase before."""
        clocks = time.monotonic(), time.process_time()
        spent = self.phases.setdefault(self._phase, [0.0, 0.0])
        self.phases[self._phase] = [
            s + b - a for s, a, b in zip(spent, self._since, clocks, strict=True)
        ]
        self._phase, self._since = phase, clocks

    def starts(self, event: str, value: float, **_: Any) -> None:
        if event == COMPILE:
            self._compiling = time.process_time()

    def lasted(self, event: str, seconds: float, fun_name: str = "", **_: Any) -> None:
        if event == COMPILE:
            cpu = time.process_time() - self._compiling
            self.programs.append((self._phase, fun_name, seconds, cpu))
        elif event in (TRACE, LOWER):
            self.tracing += seconds


def child(began: float, flags: list[str]) -> None:
    """Run the command in this process; the last line printed is the record of `PhaseClock`."""
    import jax

    import ssl_jax.run.commands.train  # noqa: F401  the phase "imports" ends here
    from ssl_jax.training.progress import StatusLine

    clock = PhaseClock(began)
    clock.enter("reading the config")
    jax.monitoring.register_scalar_listener(clock.starts)
    jax.monitoring.register_event_duration_secs_listener(clock.lasted)
    phase, back = StatusLine.phase, StatusLine.back

    def entered(self: StatusLine, text: str, detail: str = "", brief: bool = False) -> None:
        clock.enter(f"{text}: {detail}" if detail else text)
        phase(self, text, detail, brief)

    def returned(self: StatusLine, text: str) -> None:
        clock.enter(text)
        back(self, text)

    StatusLine.phase, StatusLine.back = entered, returned  # type: ignore[method-assign]
    sys.argv = ["ssl-jax", "train", *flags]
    try:
        runpy.run_module("ssl_jax", run_name="__main__")
    except SystemExit as e:
        code = e.code
    clock.enter("")
    record = {"phases": clock.phases, "programs": clock.programs, "tracing_s": clock.tracing}
    print(json.dumps(record))
    sys.exit(code)


def measure(tree: Path, flags: list[str]) -> dict[str, Any]:
    """Run the command of the code in `tree` once, in a new process and an empty folder."""
    env = os.environ | {"PYTHONPATH": str(tree), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        command = [sys.executable, __file__, "--child", str(began), f"--workdir={folder}/run"]
        process = subprocess.Popen(
            [*command, *flags], env=env, cwd=folder, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        wall, cpu = time.monotonic() - began, usage.ru_utime + usage.ru_stime
        if status:
            raise SystemExit("\n".join([*lines, f"the command of {tree} failed"]))
        metrics = json.loads(Path(folder, "run", "summary.json").read_text())
    record = json.loads(lines[-1])
    phases = record["phases"].values()
    record["phases"]["exit"] = [
        total - sum(p[i] for p in phases) for i, total in enumerate((wall, cpu))
    ]
    record["metrics"] = {k: v for k, v in metrics.items() if not k.startswith(TIMES)}
    return record | {"wall_s": wall, "cpu_s": cpu}


def medians(records: list[dict[str, Any]], details: bool) -> dict[str, Any]:
    """Return the medians of the records of several runs of the same code."""

    def median(values: Iterator[float]) -> float:
        return round(statistics.median(values), 2)

    for record in records:
        programs = record["programs"]
        record["compiled"], record["compile_s"] = len(programs), sum(p[2] for p in programs)
        whole: dict[str, list[float]] = {}
        for name, spent in record["phases"].items():
            at = whole.setdefault(name if details else name.partition(":")[0], [0.0, 0.0])
            at[:] = [a + b for a, b in zip(at, spent, strict=True)]
        record["phases"] = whole
    out = {
        name: median(record[name] for record in records)
        for name in ("wall_s", "cpu_s", "compiled", "compile_s", "tracing_s")
    }
    out["phases"] = {
        name: [
            median(record["phases"].get(name, (0.0, 0.0))[i] for record in records) for i in (0, 1)
        ]
        for name in records[-1]["phases"]
    }
    if details:
        rounded = (
            (*names, round(wall, 3), round(cpu, 3)) for *names, wall, cpu in records[-1]["programs"]
        )
        out["metrics"] = records[-1]["metrics"]
        out["programs"] = sorted(rounded, key=lambda program: -program[-1])
    return out


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """Check out a revision in a temporary worktree."""
    with tempfile.TemporaryDirectory() as folder:
        tree, git = Path(folder, "tree"), ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="simclr:digits")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--base", help="git revision to compare with")
    parser.add_argument("--details", action="store_true")
    args, further = parser.parse_known_args()
    flags = [f"--config={args.config}", *further]
    with worktree(args.base) if args.base else contextlib.nullcontext() as base:
        trees = {"here": ROOT} | ({args.base: base} if base else {})
        records: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
        for _ in range(args.runs):
            for name, tree in trees.items():
                records[name].append(measure(tree, flags))
    out = {"benchmark": "first_command", "flags": flags, "runs": args.runs}
    out |= {name: medians(runs, args.details) for name, runs in records.items()}
    if args.base:
        ours, theirs = (runs[-1]["metrics"] for runs in records.values())
        out["metrics_differ"] = {
            k: [ours.get(k), theirs.get(k)] for k in ours | theirs if ours.get(k) != theirs.get(k)
        }
    print(json.dumps(out))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(float(sys.argv[2]), sys.argv[3:])
    else:
        main()
