"""Fault injection: real processes are killed and their files damaged, and their final metrics and
parameters are compared, bit by bit, with those of undisturbed runs.

python benchmarks/faults.py [--kills=30] [--writes=20] [--only=kills,background,writes,...]

Prints one JSON line; with --page also writes docs/faults.md from all measurements so far
(docs/faults.json). All runs have the same number of threads and share a compile cache.
"""

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
WORK = Path(tempfile.gettempdir()) / "ssl_jax_faults"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(WORK / "cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ["OMP_NUM_THREADS"] = "2"

from tests.faults.runs import QUICK, TINY, Run  # noqa: E402

METHODS = ("simclr", "moco_v2", "deepcluster_v2", "dino", "mae")
STORED = ROOT / "docs" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"


def kills(method: str, count: int, wait: bool, steps: int = 300, every: int = 10) -> dict:
    """Kill a run of the recipe `digits` `count` times by SIGKILL at random moments: four of five
    while it trains, the others while it starts; one of them while it evaluates.

    Args:
      wait: training waits for each save; otherwise saves are made in the background.
    """
    flags = (
        f"--config={method}:digits",
        *QUICK,
        f"--config.train.steps={steps}",
        f"--config.checkpoint.every={every}",
        f"--config.checkpoint.wait={wait}",
        "--config.evals.every=100",
    )
    whole, killed = (Run(WORK / f"{method}_{name}", flags) for name in ("whole", "killed"))
    for run in (whole, killed):
        shutil.rmtree(run.folder, ignore_errors=True)
    whole.end()
    draw = random.Random(method)
    began, lost, moments, startup = time.monotonic(), [], [], 10.0
    for i in range(count):
        before, launched = killed.reached(), time.monotonic()
        resumed = newest(killed)
        process = killed.start()
        if i == count // 2:
            killed.wait(process, lambda: evaluating(killed))
            moments.append("evaluation")
        elif i % 5 == 0:
            time.sleep(draw.uniform(0.3, 1.0) * startup)
            moments.append("start")
        else:
            # Lines after the checkpoint are dropped from the file before the first step.
            killed.wait(process, lambda b=before, r=resumed: b <= r or killed.reached() < b)
            killed.wait(process, lambda r=resumed: killed.reached() > r)
            startup = time.monotonic() - launched
            time.sleep(draw.uniform(0, 0.6))
            moments.append("training")
        reached = killed.kill(process)
        lost.append(reached - max(newest(killed), 0))
    done = killed.end()
    return {
        "faults": count,
        "survived": count if not (wrong := killed.differences(whole)) else 0,
        "differences": wrong,
        "moments": {name: moments.count(name) for name in sorted(set(moments))},
        "steps_lost_max": max(lost),
        "steps_lost_mean": round(sum(lost) / count, 1),
        "save_interval": every,
        "seconds": round(time.monotonic() - began),
        "last_resume": next(  # the step of the checkpoint
            (int(x.split()[-1]) for x in done.splitlines() if x.startswith("resuming from")), 0
        ),
    }


def newest(run: Run) -> int:
    """Step of the newest complete checkpoint, -1 if there is none."""
    manifests = (run.folder / "checkpoints").glob("[0-9]*/manifest.json")
    return max((int(p.parent.name) for p in manifests if p.parent.name.isdigit()), default=-1)


def evaluating(run: Run) -> bool:
    """Return True during an evaluation after step 0: its step is logged, its results are not."""
    lines = run.metrics()
    if not lines or lines[-1]["step"] % 100 or not lines[-1]["step"]:
        return False
    return "train/loss" in lines[-1]


def writes(count: int) -> dict:
    """Kill a run that is always writing a checkpoint `count` times at random moments."""
    flags = (
        *TINY,
        "--config.train.steps=400",
        "--config.checkpoint.every=1",
        "--config.evals.every=-1",
    )
    whole, killed = (Run(WORK / f"writes_{name}", flags) for name in ("whole", "killed"))
    for run in (whole, killed):
        shutil.rmtree(run.folder, ignore_errors=True)
    whole.end()
    draw, lost, half = random.Random(0), [], 0
    for _ in range(count):
        resumed = newest(killed)
        process = killed.start()
        killed.wait(process, lambda r=resumed: newest(killed) > r)
        time.sleep(draw.uniform(0, 0.5))
        reached = killed.kill(process)
        lost.append(reached - newest(killed))
        names = {p.name for p in (killed.folder / "checkpoints").iterdir()}
        half += any(
            not name.isdigit()
            or not (killed.folder / "checkpoints" / name / "manifest.json").exists()
            for name in names
        )
    killed.end()
    wrong = killed.differences(whole)
    return {
        "faults": count,
        "survived": 0 if wrong else count,
        "differences": wrong,
        "half_written_at_the_kill": half,
        "steps_lost_max": max(lost),
        "save_interval": 1,
    }


def damage() -> dict:
    """Truncate, flip one bit of, and remove every file of the newest checkpoint in turn."""
    flags = (
        *TINY,
        "--config.train.steps=30",
        "--config.checkpoint.every=10",
        "--config.evals.every=-1",
    )
    whole, base = (Run(WORK / f"damage_{name}", flags) for name in ("whole", "base"))
    for run in (whole, base):
        shutil.rmtree(run.folder, ignore_errors=True)
    whole.end()
    base.end("--config.train.stop_at=20")
    files = sorted(p for p in (base.folder / "checkpoints" / "20").rglob("*") if p.is_file())
    draw, outcomes = random.Random(0), []
    for path in files:
        for harm in ("cut", "flipped", "removed"):
            harmed = Run(WORK / "damage_harmed", flags)
            shutil.rmtree(harmed.folder, ignore_errors=True)
            shutil.copytree(base.folder, harmed.folder)
            target = harmed.folder / path.relative_to(base.folder)
            data = bytearray(target.read_bytes())
            if harm == "removed":
                target.unlink()
            elif harm == "cut":
                target.write_bytes(data[: draw.randrange(len(data))] if data else b"x")
            else:
                data = data or bytearray(b"\0")
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
                target.write_bytes(data)
            output = harmed.end("--config.train.stop_at=30")
            messages = ("checkpoint 20 is not used", "from the checkpoint of step 10")
            loud = all(message in output for message in messages)
            name = path.relative_to(base.folder / "checkpoints" / "20")
            outcomes.append((str(name), harm, loud and not harmed.differences(whole)))
    return {
        "faults": len(outcomes),
        "survived": sum(ok for *_, ok in outcomes),
        "differences": [f"{name} {harm}" for name, harm, ok in outcomes if not ok],
        "files": len(files),
        "steps_lost_max": 10,
        "save_interval": 10,
    }


def soak(steps: int = 10_000) -> dict:
    """Measure resident memory, threads and open files of a long run, after its first fifth."""
    flags = (
        *TINY,
        f"--config.train.steps={steps}",
        "--config.checkpoint.every=500",
        "--config.evals.every=-1",
    )
    run = Run(WORK / "soak", flags)
    shutil.rmtree(run.folder, ignore_errors=True)
    process = run.start()
    readings = []
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        except OSError:
            break
        fields = dict(line.split(":", 1) for line in status.splitlines())
        if "VmRSS" in fields and (step := last_step(run)) > 0:
            resident, threads = int(fields["VmRSS"].split()[0]), int(fields["Threads"])
            readings.append((step, resident, threads, files))
        time.sleep(0.5)
    process.communicate()
    late = [row for row in readings if steps // 5 <= row[0] < steps]
    slope = least_squares([row[0] / 1000 for row in late], [row[1] / 1024 for row in late])
    half = len(late) // 2
    return {
        "steps": steps,
        "ended": process.returncode,
        "readings": len(late),
        "mb_per_1000_steps": round(slope, 3),
        "resident_mb": [round(late[0][1] / 1024), round(late[-1][1] / 1024)],
        "threads_max": [max(r[2] for r in late[:half]), max(r[2] for r in late[half:])],
        "files_max": [max(r[3] for r in late[:half]), max(r[3] for r in late[half:])],
    }


def last_step(run: Run) -> int:
    """Last logged step, from the last line only since the file grows long; -1 if there is none."""
    try:
        with (run.folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4000))
            return int(json.loads(file.read().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError):
        return -1


def least_squares(x: list[float], y: list[float]) -> float:
    """Slope of the line fitted to y over x."""
    middle = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - middle[0]) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument("--only", default="kills,background,writes,damage,soak,tests")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--page", action="store_true")
    flags = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    results = {}
    for part in flags.only.split(","):
        if part in ("kills", "background"):
            for method in flags.methods.split(","):
                name = f"kills of {method}" + ", saves in the background" * (part != "kills")
                results[name] = kills(method, flags.kills, wait=part == "kills")
                print(name, results[name], file=sys.stderr, flush=True)
                if flags.page:
                    store(results)
        elif part == "writes":
            results["kills while writing"] = writes(flags.writes)
        elif part == "damage":
            results["damaged files"] = damage()
        elif part == "soak":
            results["soak"] = soak()
        elif part == "tests":
            results["tests"] = tests()
        if flags.page:  # after each part, in case a later one is interrupted
            store(results)
    print(json.dumps(results))


def store(results: dict) -> None:
    """Add the results to docs/faults.json and write the page from all of them."""
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    stored |= results
    stored["machine"] = f"{platform.machine()}, {os.cpu_count()} threads, JAX on CPU"
    STORED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(stored))


def page(stored: dict) -> str:
    """Render docs/faults.md."""
    rows = ["| fault | injected | survived | steps lost, max (mean) | save interval |"]
    rows.append("|---|---|---|---|---|")
    for name, part in sorted(stored.items()):
        if isinstance(part, dict) and "faults" in part:
            mean = f" ({part['steps_lost_mean']})" if "steps_lost_mean" in part else ""
            rows.append(
                f"| {name} | {part['faults']} | {part['survived']} | "
                f"{part['steps_lost_max']}{mean} | {part['save_interval']} |"
            )
    text = [*INTRODUCTION.splitlines(), "", *rows, ""]
    if soaked := stored.get("soak"):
        text += [
            f"A run of {soaked['steps']:,} steps, from step {soaked['steps'] // 5:,} on: resident "
            f"memory grows by {soaked['mb_per_1000_steps']} MB per 1,000 steps "
            f"({soaked['resident_mb'][0]} to {soaked['resident_mb'][1]} MB, least squares over "
            f"{soaked['readings']} readings); at most {soaked['threads_max'][0]} threads and "
            f"{soaked['files_max'][0]} open files in the first half of this period, "
            f"{soaked['threads_max'][1]} and {soaked['files_max'][1]} in the second.",
            "",
        ]
    if outcomes := stored.get("tests"):
        text += ["## Single tests", "", f"`pytest -m full tests/faults` ({stored['machine']}):", ""]
        text += [f"- {name}: {outcome}" for name, outcome in sorted(outcomes.items())] + [""]
    return "\n".join(text)


INTRODUCTION = """\
# Fault injection

`python benchmarks/faults.py --page` writes this page. A run survived if it finished after the last
fault, and its metrics (except times) and every array of its last checkpoint were bitwise equal to
those of an undisturbed run. The runs are real processes with one device each and the recipes
`METHOD:digits` with batches of 32, killed by SIGKILL: one of five kills while the run starts, one
while it evaluates, the others while it trains. The guarantees are on the page
[checkpoints](checkpoints.md).

By default checkpoints are saved in the background, so a kill can lose one interval plus the steps
trained while that checkpoint was being written; in runs this small a save takes as long as several
steps. With `checkpoint.wait=True` training waits for each save."""


def tests() -> dict:
    """Run tests/faults; return the outcome of each test by name."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        words = ["-m", "full or not full", "-q", "--override-ini=addopts=--import-mode=importlib"]
        subprocess.run(
            [sys.executable, "-m", "pytest", *words, f"--junitxml={report.name}", "tests/faults"],
            cwd=ROOT,
            stdout=sys.stderr,
        )
        cases = ElementTree.parse(report.name).iter("testcase")
        return {
            case.get("name", "").removeprefix("test_").replace("_", " "): (
                "passed" if not len(case) else str(case[0].tag)
            )
            for case in cases
        }


if __name__ == "__main__":
    main()
