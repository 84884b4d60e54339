"""Random damaged input, much of it: how often each kind was read, refused, or a fault.

python benchmarks/fuzz.py --examples=20000 [--kinds=image,tar] [--seed=0]

Each kind runs in a process of its own, which is started again where it crashed or hung; the input
of such a fault is kept in --keep. Prints one JSON line.
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
BATCH = 500  # examples a process


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
    found = {name: campaign(name, args.examples // len(names), args) for name in names}
    print(json.dumps({"examples": sum(c["examples"] for c in found.values()), "kinds": found}))


def campaign(name: str, examples: int, args: argparse.Namespace) -> dict:
    """Counts of one kind."""
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
    found = {"examples": examples, **counts, "faults": dict(faults), "seconds": seconds}
    print(f"{name}: {found}", file=sys.stderr)
    return found


def watch(run: subprocess.Popen, now: Path) -> tuple[str | None, str]:
    """What a worker printed, and its errors; None where it was at one example for too long, and was
    killed.
    """
    while True:
        try:
            return run.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            if not now.exists() or time.time() - now.stat().st_mtime > HANG:
                run.kill()
                return None, run.communicate()[1]


def work(name: str, examples: int, number: int, keep: Path) -> dict:
    """Counts of some examples; what is at work lies in keep/now, for whoever finds this dead."""
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
            what = f"{type(e).__name__} at {Path(last.filename).name}:{last.lineno}"
            if not faults[what]:
                (keep / f"fault{len(faults)}").write_bytes((keep / "now").read_bytes())
                (keep / f"fault{len(faults)}.txt").write_text(traceback.format_exc())
            faults[what] += 1

    with sandbox():
        examine()
    return {"counts": counts, "faults": faults}


if __name__ == "__main__":
    main()
