"""Fuzzing with random damaged input: how often each kind was read, refused or caused a fault.

python benchmarks/fuzz.py --examples=20000 [--kinds=image,tar] [--seed=0]

Each kind runs in its own processes, which are restarted after a crash or a hang; the inputs that
caused faults are stored in --keep. Prints one JSON line.
"""

import argparse
import collections
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
HANG = 60  # seconds for one example
BATCH = 500  # examples per process


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--kinds", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="/tmp/ssl_jax_fuzz")
    parser.add_argument("--worker", action="store_true")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.kinds, args.examples, args.seed, Path(args.keep))))
        return
    from tests.faults.fuzzing import kinds

    names = args.kinds.split(",") if args.kinds else list(kinds())
    results = {name: campaign(name, args.examples // len(names), args) for name in names}
    total = sum(result["examples"] for result in results.values())
    print(json.dumps({"examples": total, "kinds": results}))


def campaign(name: str, examples: int, args: argparse.Namespace) -> dict:
    """Run all examples of one kind; return its counts."""
    counts: collections.Counter = collections.Counter()
    faults: collections.Counter = collections.Counter()
    began = time.monotonic()
    for number in range(-(-examples // BATCH)):
        some = min(BATCH, examples - number * BATCH)
        keep = Path(args.keep) / f"{name}-{args.seed}-{number}"
        keep.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, "--worker", f"--kinds={name}", f"--examples={some}"]
        command += [f"--seed={args.seed * 1000 + number}", f"--keep={keep}"]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = watch(run, keep / "now")
        if out is None:
            faults["hang"] += 1
        elif run.returncode:
            faults[f"crash, exit code {run.returncode}"] += 1
            print(f"{keep}: {err[-500:]}", file=sys.stderr)
        else:
            part = json.loads(out.splitlines()[-1])
            counts.update(part["counts"])
            faults.update(part["faults"])
    seconds = round(time.monotonic() - began, 1)
    result = {"examples": examples, **counts, "faults": dict(faults), "seconds": seconds}
    print(f"{name}: {result}", file=sys.stderr)
    return result


def watch(run: subprocess.Popen, current: Path) -> tuple[str | None, str]:
    """Wait for a worker; return its output (None if it hung on one example and was killed) and its
    errors.

    Args:
      current: the file of the example at work.
    """
    while True:
        try:
            return run.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            if not current.exists() or time.time() - current.stat().st_mtime > HANG:
                run.kill()
                return None, run.communicate()[1]


def work(name: str, examples: int, number: int, keep: Path) -> dict:
    """Run some examples and count outcomes; keep/now holds the current one, in case of a crash."""
    from tests.faults.fuzzing import kinds, sandbox

    kind, counts, faults = kinds()[name], collections.Counter(), collections.Counter()

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.draws)
    def examine(example: object) -> None:
        (keep / "now").write_bytes(
            example if isinstance(example, bytes) else repr(example).encode()
        )
        try:
            counts[kind.check(example)] += 1
        except BaseException as e:
            if isinstance(e, KeyboardInterrupt):
                raise
            last = traceback.extract_tb(e.__traceback__)[-1]
            fault = f"{type(e).__name__} at {Path(last.filename).name}:{last.lineno}"
            if not faults[fault]:
                (keep / f"fault{len(faults)}").write_bytes((keep / "now").read_bytes())
                (keep / f"fault{len(faults)}.txt").write_text(traceback.format_exc())
            faults[fault] += 1

    with sandbox():
        examine()
    return {"counts": counts, "faults": faults}


if __name__ == "__main__":
    main()
