"""The machine of `ssl-jax doctor`: its accelerators, and how fast it trains and reads images."""

import glob
import importlib.util
import math
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

from ssl_jax.core import sharding
from ssl_jax.core.placement import to_global
from ssl_jax.run.experiment import Experiment
from ssl_jax.training.step import make_train_step

INSTALL = "in your clone of ssl_jax: pip install -c constraints.txt -e '.[{extra}]'"
CUDA_DRIVER = 580  # the oldest NVIDIA driver for CUDA 13, which the extra `gpu` installs
GOOGLE = "0x1ae0"
TPU_CHIPS = {
    "0x0027",
    "0x005e",
    "0x0062",
    "0x0063",
    "0x006f",
}  # PCI ids of v2/v3, v4, v5p, v5e, v6e
TPU_VARIABLES = ("TPU_NAME", "TPU_ACCELERATOR_TYPE", "COLAB_TPU_ADDR")
FEWEST, MOST = 5, 1000  # steps or batches of a measurement


@dataclass(frozen=True)
class StepRate:
    """Speed of a training step on one batch that stays on the devices.

    Attributes:
      compile_seconds: time of the first step.
      steps: steps measured after it.
      images: images per second, with all of their views.
      loss: of the last step.
    """

    compile_seconds: float
    steps: int
    images: float
    loss: float


def train_rate(experiment: Experiment, seconds: float) -> StepRate:
    """Compile the step of a run and repeat it, for at most `seconds` in total but at least
    `FEWEST` steps after the first.
    """
    start = time.perf_counter()
    batches = experiment.batches(0, 1)
    with jax.set_mesh(experiment.mesh):
        batch = to_global(next(batches), sharding.batch_sharding(experiment.mesh))
        batches.close()
        step = make_train_step(
            experiment.objective,
            experiment.tx,
            experiment.schedule,
            experiment.mesh,
            experiment.placed,
        )
        state, metrics = step(experiment.fresh_state(), batch)
        jax.block_until_ready(metrics)
        compiled = time.perf_counter()
        steps = 0
        while steps < FEWEST or (time.perf_counter() - start < seconds and steps < MOST):
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            steps += 1
    images = steps * experiment.spec.global_batch / (time.perf_counter() - compiled)
    return StepRate(compiled - start, steps, images, float(metrics["train/loss"]))


def read_rate(experiment: Experiment, seconds: float) -> float:
    """Return the images per second that the data of a run yield, decoded and cropped, with the
    run's number of threads; from batches of about `seconds` after the first.
    """
    batches = experiment.batches(0, MOST)
    next(batches)  # starts the threads
    start, count = time.perf_counter(), 0
    while count < FEWEST or (time.perf_counter() - start < seconds and count < MOST - 1):
        next(batches)
        count += 1
    rate = count * experiment.spec.global_batch / (time.perf_counter() - start)
    batches.close()
    return rate


@dataclass(frozen=True)
class Accelerator:
    """An accelerator that the machine has, whether or not JAX sees it.

    Attributes:
      extra: the extra of this package that supports it: "gpu" or "tpu".
      name: in words.
      driver: version of its driver, "" if unknown.
    """

    extra: str
    name: str
    driver: str = ""


def accelerators() -> list[Accelerator]:
    """List the NVIDIA GPUs and the TPUs of this machine, found without JAX."""
    return [*gpus(), *tpus(os.environ, _pci_devices())]


def gpus() -> list[Accelerator]:
    """List the NVIDIA GPUs that `nvidia-smi` names or, without it, the devices of their driver."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            pass
        else:
            if done.returncode == 0:
                lines = [line.rpartition(",") for line in done.stdout.splitlines() if line.strip()]
                return [Accelerator("gpu", a.strip(), driver.strip()) for a, _, driver in lines]
    return [Accelerator("gpu", "NVIDIA GPU") for _ in glob.glob("/dev/nvidia[0-9]*")]  # noqa: PTH207


def tpus(env: Mapping[str, str], pci: Iterable[tuple[str, str]]) -> list[Accelerator]:
    """List the TPU chips among (vendor, device) pairs of the PCI bus; without one, a TPU that an
    environment variable names.
    """
    chips = [device for vendor, device in pci if vendor == GOOGLE and device in TPU_CHIPS]
    if chips:
        return [Accelerator("tpu", "TPU chip") for _ in chips]
    named = next((name for name in TPU_VARIABLES if env.get(name)), "")
    return [Accelerator("tpu", f"TPU ({named}={env[named]})")] if named else []


def _pci_devices() -> list[tuple[str, str]]:
    """List the (vendor, device) pairs of the PCI bus."""
    pairs = []
    for folder in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, device = (folder / "vendor").read_text(), (folder / "device").read_text()
        except OSError:
            continue
        pairs.append((vendor.strip(), device.strip()))
    return pairs


def advice(accelerator: Accelerator, platform: str, env: Mapping[str, str]) -> str:
    """Say how JAX comes to use an accelerator; "" if it does.

    Args:
      platform: that of JAX's devices: "cpu", "gpu", "tpu".
    """
    if platform == accelerator.extra:
        return ""
    if (forced := env.get("JAX_PLATFORMS", "")) and not _allows(forced, accelerator.extra):
        return f"hidden by JAX_PLATFORMS={forced}; unset it"
    install = INSTALL.format(extra=accelerator.extra)
    if accelerator.extra == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            return f"JAX lacks libtpu; {install}"
        return "libtpu is installed, but JAX uses no TPU; is another process using it?"
    major = accelerator.driver.partition(".")[0]
    if major.isdecimal() and int(major) < CUDA_DRIVER:
        return (
            f"its driver {accelerator.driver} is older than CUDA 13 needs ({CUDA_DRIVER}); update "
            "it, or pip install 'jax[cuda12]'"
        )
    if not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)):
        return f"JAX lacks its CUDA plugin; {install}"
    return "JAX's CUDA plugin is installed, but JAX uses no GPU; does nvidia-smi work here?"


def _allows(forced: str, extra: str) -> bool:
    names = {"gpu": {"gpu", "cuda"}, "tpu": {"tpu"}}[extra]
    return bool(names & set(forced.split(",")))


def cores_for(needed: float, per_core: float) -> int:
    """Return how many cores read `needed` images per second."""
    return max(1, math.ceil(needed / per_core))
