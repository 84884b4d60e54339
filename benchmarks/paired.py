"""Differences between the arms of a study, paired by seed.

    python benchmarks/paired.py --study=studies:s4l_digits --workdir=S --metric=classifier_top1
    python benchmarks/paired.py --study=studies:multi_task_moving_digits --workdir=M \\
        --metric=fewshot5_top1 [--stored]
    python benchmarks/paired.py --study=studies:dense_photos --workdir=D --metric=patches_top1 \\
        --data=folder:/photos --config.evals.patches.train=seg/train ...

Runs are named ARM-seedN, as in these studies. Trains them by `ssl-jax study`, which gets all other
flags, skips finished runs and resumes an interrupted one; with --stored it trains none. Prints one
JSON line: each arm's numbers and the untrained network's, and the mean of the first arm's number
minus every other arm's over the seeds that both have finished, with its standard error (null for
one seed).
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    from ssl_jax.run.study import finished, last_numbers, read

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--metric", required=True)
    parser.add_argument("--stored", action="store_true", help="train nothing")
    args, further = parser.parse_known_args()
    folder = args.workdir.absolute()
    if not args.stored:
        flags = [f"--study={args.study}", f"--workdir={folder}", f"--metrics={args.metric}"]
        command = [sys.executable, "-m", "ssl_jax", "study", *flags, *further]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    arms: dict[str, dict[str, float]] = {}
    untrained: dict[str, dict[str, float]] = {}
    for run in read(args.study):
        arm, seed = run.name.split("-seed")
        numbers = arms.setdefault(arm, {})
        if not finished(folder / run.name):
            continue
        last = last_numbers(folder / run.name)
        numbers[seed] = round(last[f"eval/{args.metric}"], 4)
        if (value := last.get(f"untrained/eval/{args.metric}")) is not None:
            untrained.setdefault(arm, {})[seed] = round(value, 4)
    first, *others = arms
    out = {"benchmark": "paired", "study": args.study, "metric": args.metric, "arms": arms}
    differences = {other: difference(arms[first], arms[other]) for other in others}
    print(json.dumps(out | {"untrained": untrained, f"{first} minus": differences}))


def difference(first: dict[str, float], second: dict[str, float]) -> dict[str, float | None]:
    """Return the mean of first - second over the common seeds, and its standard error."""
    each: Sequence[float] = [first[seed] - second[seed] for seed in first if seed in second]
    mean = round(statistics.mean(each), 4) if each else None
    error = round(statistics.stdev(each) / len(each) ** 0.5, 4) if each[1:] else None
    return {"mean": mean, "standard_error": error, "seeds": len(each)}


if __name__ == "__main__":
    main()
