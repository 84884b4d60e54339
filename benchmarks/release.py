"""Install the sdist and the wheel in fresh environments, and use what was installed.

    python benchmarks/release.py                                    # this Python, newest versions
    python benchmarks/release.py --pythons=python3.12,python3.13
    python benchmarks/release.py --versions=oldest                  # lower bounds of pyproject.toml

Prints a line on the extras that cannot be resolved with constraints.txt, and one JSON line per
Python: versions, and whether the smoke test passed: train, resume, evaluate, embed, export, report.
The exit code is 1 if one failed. It needs a package index and `uv`, which resolves to the oldest
versions that the ranges allow; transitive dependencies are the newest in both cases.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).parent.parent
PYTHONS = flags.DEFINE_list("pythons", [sys.executable], "interpreters, as uv finds them")
VERSIONS = flags.DEFINE_enum("versions", "newest", ["newest", "oldest"], "of the dependencies")
REPORTED = ("jax", "flax", "numpy", "orbax-checkpoint", "grain", "scikit-learn", "pyarrow")
SMOKE = """  # in an empty folder
import ssl_jax
settings = {"backbone.width": 4, "objective.projector": (8, 8), "train.steps": 4}
settings |= {"train.batch_size": 32, "train.stop_at": 2, "evals.protocols": ("knn",)}
assert len(ssl_jax.methods()) > 80
ssl_jax.train("simclr:digits", workdir="W", settings=settings)
ssl_jax.train(workdir="W", settings={"train.stop_at": 0})
(record,) = ssl_jax.evaluate("W", ["linear"], baselines=False)
features = ssl_jax.embed("W", "digits")["features"]
ssl_jax.embed("W", "digits", "features.parquet")
ssl_jax.embed("W", "digits", "features.array_record")
ssl_jax.export("W", "w.safetensors", format="safetensors")
ssl_jax.export("W", "w.zip", format="stablehlo")
again = ssl_jax.embed("w.safetensors", "digits")["features"]
assert abs(features - again).max() < 1e-5
"""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """Run a program; return what it printed, with its error if it failed."""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    env.pop("PYTHONPATH", None)  # else the clone would be used
    done = subprocess.run([*map(str, words)], cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(" ".join((done.stderr or done.stdout).split())[-500:])
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it; return their paths."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder)
    (sdist,) = folder.glob("*.tar.gz")
    run(sys.executable, "-m", "tarfile", "-e", sdist, folder)
    source = folder / sdist.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = run("git", "ls-files", "ssl_jax", "configs").splitlines()
    paths = {name if name.startswith("ssl_jax") else f"ssl_jax/{name}" for name in tracked}
    if missing := sorted(paths - names):
        raise RuntimeError(f"the wheel lacks {missing[:5]}")
    return sdist, wheel


def unresolved() -> dict[str, str]:
    """Resolve each extra with the versions of CI; return those that fail, with the reason."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    command = ("uv", "pip", "compile", "-q", "pyproject.toml", "-c", "constraints.txt")
    failed = {}
    for extra in project["optional-dependencies"]:
        try:
            run(*command, "--python", sys.executable, "--extra", extra)
        except RuntimeError as e:
            failed[extra] = str(e)
    return failed


def smoke(python: str, wheel: Path, folder: Path) -> dict[str, object]:
    """Install the wheel for a Python and use it; return one line of the result."""
    line: dict[str, object] = {"versions": VERSIONS.value}
    environment, empty = folder / "venv", folder / "empty"
    empty.mkdir(parents=True)
    began = time.monotonic()
    try:
        run("uv", "venv", "-q", "--python", python, environment)
        own = environment / "bin" / "python"
        install = ["uv", "pip", "install", "-q", "--python", own]
        if VERSIONS.value == "oldest":  # for uv, the dependencies of a wheel are not direct ones
            run(*install, "--resolution=lowest-direct", "-r", ROOT / "pyproject.toml")
        run(*install, wheel)
        listed = json.loads(run("uv", "pip", "list", "--python", own, "--format=json"))
        versions = {package["name"]: package["version"] for package in listed}
        line["python"] = run(own, "-c", "import platform; print(platform.python_version())").strip()
        line |= {name: versions[name] for name in REPORTED}
    except RuntimeError as e:
        return line | {"python": python, "failed": f"install: {e}"}
    try:
        run(own, "-c", SMOKE, cwd=empty)
        run(environment / "bin" / "ssl-jax", "report", "--workdir=W", cwd=empty)
    except RuntimeError as e:
        return line | {"failed": str(e)}
    return line | {"passed": True, "seconds": round(time.monotonic() - began)}


def main(_: list[str]) -> None:
    extras = unresolved()
    print(json.dumps({"unresolved extras": extras}), flush=True)
    failed = bool(extras)
    with tempfile.TemporaryDirectory() as folder:
        sdist, wheel = build(Path(folder))
        sizes = {path.name: path.stat().st_size for path in (sdist, wheel)}
        print(json.dumps({"built": sizes}), flush=True)
        for number, python in enumerate(PYTHONS.value):
            line = smoke(python, wheel, Path(folder, str(number)))
            failed |= "failed" in line
            print(json.dumps(line), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    app.run(main)
