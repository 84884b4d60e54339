"""Does a run survive what happens to it? Real processes are killed and their files damaged, and
what they end with is compared, bit by bit, with runs that nothing happened to.

python benchmarks/faults.py [--kills=30] [--writes=20] [--only=kills,background,writes,...]

Prints one JSON line; with --page docs/faults.md is written as well, from all that was measured so
far (docs/faults.json). All runs have the same number of threads and share a compile cache.
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
KEPT = ROOT / "docs" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"


def kills(method: str, count: int, wait: bool, steps: int = 300, every: int = 10) -> dict:
    """`count` SIGKILLs at random moments of a run of the recipe `digits`: four of five while it
    trains, the others while it starts; one of them while it evaluates.

    Args:
      wait: training waits for each save; else they are made in the background.
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
            # What lies beyond the checkpoint is dropped from the file before the first step.
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
        "last_resume": next((x for x in done.splitlines() if x.startswith("resuming from")), ""),
    }


def newest(run: Run) -> int:
    """Step of the newest complete checkpoint, -1 if there is none."""
    found = (run.folder / "checkpoints").glob("[0-9]*/manifest.json")
    return max((int(p.parent.name) for p in found if p.parent.name.isdigit()), default=-1)


def evaluating(run: Run) -> bool:
    """Whether it is in the middle of an evaluation after step 0: its step is logged, not yet it."""
    lines = run.metrics()
    if not lines or lines[-1]["step"] % 100 or not lines[-1]["step"]:
        return False
    return "train/loss" in lines[-1]


def writes(count: int) -> dict:
    """`count` SIGKILLs at random moments of a run that is always writing a checkpoint."""
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
    """Every file of the newest checkpoint cut off, one bit of it flipped, and removed."""
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
    draw, found = random.Random(0), []
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
            said = harmed.end("--config.train.stop_at=30")
            loud = "checkpoint 20 is not used" in said and "from the checkpoint of step 10" in said
            name = path.relative_to(base.folder / "checkpoints" / "20")
            found.append((str(name), harm, loud and not harmed.differences(whole)))
    return {
        "faults": len(found),
        "survived": sum(ok for *_, ok in found),
        "differences": [f"{name} {harm}" for name, harm, ok in found if not ok],
        "files": len(files),
        "steps_lost_max": 10,
        "save_interval": 10,
    }


def soak(steps: int = 10_000) -> dict:
    """Resident memory, threads and open files of a long run, after its first fifth."""
    flags = (
        *TINY,
        f"--config.train.steps={steps}",
        "--config.checkpoint.every=500",
        "--config.evals.every=-1",
    )
    run = Run(WORK / "soak", flags)
    shutil.rmtree(run.folder, ignore_errors=True)
    process = run.start()
    seen = []
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        except OSError:
            break
        fields = dict(line.split(":", 1) for line in status.splitlines())
        if "VmRSS" in fields and (step := last_step(run)) > 0:
            seen.append((step, int(fields["VmRSS"].split()[0]), int(fields["Threads"]), files))
        time.sleep(0.5)
    process.communicate()
    late = [row for row in seen if steps // 5 <= row[0] < steps]
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
    """Of a file that grows long: from its last line only."""
    try:
        with (run.folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4000))
            return int(json.loads(file.read().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError):
        return -1


def least_squares(x: list[float], y: list[float]) -> float:
    middle = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - middle[0]) * (b - middle[1]) for a, b in zip(x, y, strict=True))
    return over / sum((a - middle[0]) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--writes", type=int, default=20)
    parser.add_argument("--only", default="kills,background,writes,damage,soak,tests")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--page", action="store_true")
    flags = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    found = {}
    for part in flags.only.split(","):
        if part in ("kills", "background"):
            for method in flags.methods.split(","):
                name = f"kills of {method}" + ", saves in the background" * (part != "kills")
                found[name] = kills(method, flags.kills, wait=part == "kills")
                print(name, found[name], file=sys.stderr, flush=True)
                if flags.page:
                    keep(found)
        elif part == "writes":
            found["kills while writing"] = writes(flags.writes)
        elif part == "damage":
            found["damaged files"] = damage()
        elif part == "soak":
            found["soak"] = soak()
        elif part == "tests":
            found["tests"] = tests()
        if flags.page:  # what was measured stays, should a later part be cut off
            keep(found)
    print(json.dumps(found))


def keep(found: dict) -> None:
    """Write the page from what was found now and before."""
    known = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    known |= found
    known["machine"] = f"{platform.machine()}, {os.cpu_count()} threads, JAX on CPU"
    KEPT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(known))


def page(known: dict) -> str:
    """docs/faults.md."""
    rows = ["| faults | injected | survived | steps lost, most (mean) | save interval |"]
    rows.append("|---|---|---|---|---|")
    for name, part in sorted(known.items()):
        if isinstance(part, dict) and "faults" in part:
            mean = f" ({part['steps_lost_mean']})" if "steps_lost_mean" in part else ""
            rows.append(
                f"| {name} | {part['faults']} | {part['survived']} | "
                f"{part['steps_lost_max']}{mean} | {part['save_interval']} |"
            )
    text = [*INTRODUCTION.splitlines(), "", *rows, ""]
    if soaked := known.get("soak"):
        text += [
            f"A run of {soaked['steps']:,} steps, from its {soaked['steps'] // 5:,}th on: resident "
            f"memory grows by {soaked['mb_per_1000_steps']} MB per 1,000 steps "
            f"({soaked['resident_mb'][0]} to {soaked['resident_mb'][1]} MB, least squares over "
            f"{soaked['readings']} readings); at most {soaked['threads_max'][0]} threads and "
            f"{soaked['files_max'][0]} open files in the first half of that, "
            f"{soaked['threads_max'][1]} and {soaked['files_max'][1]} in the second.",
            "",
        ]
    if tested := known.get("tests"):
        text += ["## One by one", "", f"`pytest -m full tests/faults` ({known['machine']}):", ""]
        text += [f"- {name}: {how}" for name, how in sorted(tested.items())] + [""]
    return "\n".join(text)


INTRODUCTION = """\
# Faults: what was done to runs, and what became of them

Written by `python benchmarks/faults.py --page`. Survived means: after the last fault the run ended,
and its metrics (but for times) and every array of its last checkpoint were bitwise those of a run
that nothing happened to. Real processes, one device each, the recipes `METHOD:digits` with batches
of 32, killed by SIGKILL: one of five while it starts, one while it evaluates, the others while it
trains. What is promised: [checkpoints](checkpoints.md).

By default saves are made in the background, so that a kill can cost one interval and what was
trained while that save was being written; in runs this small a save takes as long as several steps.
With `checkpoint.wait=True` training waits for each save."""


def tests() -> dict:
    """Each test of tests/faults, and whether it passed."""
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
