"""Speed of the input pipeline compared with lightly's SimCLRTransform and a torch DataLoader.

    python benchmarks/input_pipeline.py --peer_python=/tmp/vp/bin/python

500x375 JPEG files (90 % quality, 4:2:0; cut from scikit-learn's two sample photos, with noise) to
two views of 224 pixels. Each round runs the parts below once, each in its own process; prints one
JSON line of medians over the rounds.

- host: ssl_jax decodes and crops, on one core; images per CPU second.
- total: the same, then ssl_jax.augment's "simclr" chain as XLA compiles it for that one core.
- lightly: SimCLRTransform(224), the whole chain, on one core.
- threads: ssl_jax with two threads; images per second of wall time.
- torch: a DataLoader with two workers around the same decode and crop functions.

Compare the last two on an otherwise idle machine. Without --peer_python, an interpreter with torch
and lightly (../shared/bench_peer), those parts are "not run".
"""

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIZE, AREA, BATCH = 224, (0.08, 1.0), 64
OURS, PEER = ("host", "total", "threads"), ("lightly", "torch")
ONE_CORE = ("host", "total", "lightly")
WARM, TIMED = 4, 12  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer_python", default="", help="interpreter with torch and lightly")
    parser.add_argument("--jpegs", default="", help="folder of JPEG files to read instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=OURS + PEER, help="run only this part, in this process")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(PARTS[args.part](sorted(Path(args.jpegs).glob("*.jpg")))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if not args.jpegs:
            write_jpegs(Path(folder), 256)
        files = args.jpegs or folder
        measured: dict[str, list[dict]] = {part: [] for part in OURS + PEER}
        for _, part in itertools.product(range(args.rounds), measured):
            python = args.peer_python if part in PEER else sys.executable
            if python:
                measured[part].append(run(python, part, files))
        size = statistics.mean(p.stat().st_size for p in Path(files).glob("*.jpg"))
    print(json.dumps(summary(measured) | {"rounds": args.rounds, "mean_kb": round(size / 1000, 1)}))


def summary(measured: dict[str, list[dict]]) -> dict[str, Any]:
    def median(part: str, what: str) -> float | None:
        return statistics.median(m[what] for m in measured[part]) if measured[part] else None

    def ratio(a: float | None, b: float | None) -> float | str:
        return round(a / b, 2) if a and b else "not run"

    per_core = {part: median(part, "per_cpu_s") for part in measured}
    wall = {part: median(part, "per_wall_s") for part in ("threads", "torch")}
    return {
        "benchmark": "input_pipeline",
        "images_per_cpu_s": {k: round(v) if v else "not run" for k, v in per_core.items()},
        "images_per_wall_s": {k: round(v) if v else "not run" for k, v in wall.items()},
        "host_over_lightly": ratio(per_core["host"], per_core["lightly"]),
        "total_over_lightly": ratio(per_core["total"], per_core["lightly"]),
        "threads_over_torch": ratio(wall["threads"], wall["torch"]),
        "threads_over_torch_cpu": ratio(per_core["threads"], per_core["torch"]),
        "load": round(os.getloadavg()[0], 2),
    }


def run(python: str, part: str, files: str) -> dict:
    """Run one part in a fresh process; return its measurements."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "JAX_PLATFORMS": "cpu"}
    root = str(Path(__file__).parent.parent)
    env = os.environ | threads | {"PYTHONPATH": root}
    if part in ONE_CORE:
        env["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    command = [python, __file__, f"--part={part}", f"--jpegs={files}"]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_jpegs(folder: Path, n: int) -> None:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    rng = np.random.default_rng(0)
    for i in range(n):
        photo = photos[i % len(photos)]
        height = int(photo.shape[0] * rng.uniform(0.7, 1.0))
        width = min(photo.shape[1], height * 4 // 3)
        y = rng.integers(photo.shape[0] - height + 1)
        x = rng.integers(photo.shape[1] - width + 1)
        image = Image.fromarray(photo[y : y + height, x : x + width])
        image = image.resize((500, 375), Image.Resampling.LANCZOS)
        if rng.random() < 0.25:
            image = image.transpose(Image.Transpose.ROTATE_90)
        pixels = np.asarray(image, np.float32)
        pixels = pixels + rng.normal(0, 4, (*pixels.shape[:2], 1))
        out = io.BytesIO()
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        image.save(out, "JPEG", quality=90, subsampling=2)
        (folder / f"{i:04}.jpg").write_bytes(out.getvalue())


def timed(batches: Iterator, use: Any = lambda batch: None, children: tuple[int, ...] = ()) -> dict:
    """Measure rates over `TIMED` batches after `WARM` ones, counting the CPU time of `children`."""

    def cpu() -> float:
        ticks = 0
        for pid in children:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # user and system
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")

    for _ in range(WARM):
        use(next(batches))
    wall_began, cpu_began = time.perf_counter(), cpu()
    for _ in range(TIMED):
        use(next(batches))
    images = BATCH * TIMED
    return {
        "per_wall_s": images / (time.perf_counter() - wall_began),
        "per_cpu_s": images / (cpu() - cpu_began),
    }


def one_core() -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def our_batches(files: list[Path], threads: int, prefetch: int) -> Iterator[dict]:
    from ssl_jax.data.pipeline import batches
    from ssl_jax.data.sources import open_source

    return batches(
        open_source(f"folder:{files[0].parent}"),
        our_inputs(),
        global_batch=BATCH,
        seed=0,
        stop_step=10_000,
        threads=threads,
        prefetch=prefetch,
    )


def our_inputs() -> Any:
    from ssl_jax.core.inputs import Inputs, View

    return Inputs((View(SIZE, 2, AREA, "simclr"),))


def host(files: list[Path]) -> dict:
    one_core()
    return timed(our_batches(files, threads=1, prefetch=0))


def total(files: list[Path]) -> dict:
    one_core()
    import jax

    from ssl_jax.augment.recipes import augment

    chain = jax.jit(augment, static_argnums=0)
    key, inputs = jax.random.key(0), our_inputs()
    return timed(
        our_batches(files, threads=1, prefetch=0),
        lambda batch: jax.block_until_ready(chain(inputs, batch, key)),
    )


def threads(files: list[Path]) -> dict:
    return timed(our_batches(files, threads=2, prefetch=2))


def lightly(files: list[Path]) -> dict:
    one_core()
    import torch

    declare_torchvision_operators()
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    torch.set_num_threads(1)
    transform = SimCLRTransform(input_size=SIZE)

    def each() -> Iterator[list]:
        endless = itertools.cycle(files)
        while True:
            some = itertools.islice(endless, BATCH)
            yield [transform(Image.open(path).convert("RGB")) for path in some]

    return timed(each())


def declare_torchvision_operators() -> None:
    """Make torchvision's CUDA wheel importable with a CPU build of torch."""
    import torch

    for name in ("nms", "qnms"):
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", signature)


class CropDataset:
    """Our decode, boxes and crops as a map-style torch data set."""

    def __init__(self, files: list[Path], length: int) -> None:
        self.files, self.length = files, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> np.ndarray:
        from ssl_jax.data.decode import TRIES, crop_resize, decode, random_box

        image = decode(self.files[index % len(self.files)].read_bytes(), 3, lambda *_: 1)
        out = np.empty((2, SIZE, SIZE, 3), np.uint8)
        for view, draws in enumerate(np.random.random((2, TRIES, 4))):
            crop_resize(image, random_box(*image.shape[:2], draws, AREA), SIZE, out=out[view])
        return out


def torch_loader(files: list[Path]) -> dict:
    import torch

    data = CropDataset(files, BATCH * (WARM + TIMED + 8))
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=2)
    batches = iter(loader)
    return timed(batches, children=tuple(w.pid for w in batches._workers))


PARTS = {
    "host": host,
    "total": total,
    "threads": threads,
    "lightly": lightly,
    "torch": torch_loader,
}

if __name__ == "__main__":
    main()
