"""Time from opening a folder of many tiny files to the first batch, cold and with the index.

    python benchmarks/folder_index.py [--files 200000]

Writes the files (400 folders, links to one small JPEG file's bytes), then opens the folder in fresh
processes: once without a cached index, then with it. Prints one JSON line of wall seconds; the
import of the package is not counted. The file system's own cache is warm.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

FOLDERS = 400
OPEN = """
import sys, time
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import open_source
began = time.perf_counter()
source = open_source(f"folder:{sys.argv[1]}")
opened = time.perf_counter()
inputs = Inputs((View(32, 2),))
next(batches(source, inputs, global_batch=256, seed=0, stop_step=1))
print(len(source), opened - began, time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200_000)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory() as root:
        images = Path(root) / "images"
        write(images, files)
        out = {"benchmark": "folder_index", "files": files}
        for name in ("cold", "cached", "cached_again"):
            out[name] = first_batch(images, Path(root) / "cache", files)
    print(json.dumps(out | {"load": round(os.getloadavg()[0], 2)}))


def write(images: Path, files: int) -> None:
    encoded = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(encoded, "JPEG")
    for folder in range(FOLDERS):
        (images / f"class{folder:03}").mkdir(parents=True)
    for i in range(files):
        (images / f"class{i % FOLDERS:03}" / f"{i:06}.jpg").write_bytes(encoded.getvalue())


def first_batch(images: Path, cache: Path, files: int) -> dict[str, float]:
    env = os.environ | {"SSL_JAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", OPEN, str(images)]
    run = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    count, opened, batch = run.stdout.split()
    assert int(count) == files, run.stdout
    return {"opened_s": round(float(opened), 3), "first_batch_s": round(float(batch), 3)}


if __name__ == "__main__":
    main()
