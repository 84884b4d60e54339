"""Round trip of weights to timm and torchvision: features, batch statistics, bit equality.

    python benchmarks/interchange.py --peer_python=/tmp/vp/bin/python [--only=resnet18,...]

Random networks are exported as by `ssl-jax export`. Another Python interpreter with torch, timm,
torchvision and safetensors builds each model from the lines in the file's metadata, loads it with
`strict=True`, and computes features in evaluation mode and, with batch norm, in training mode, with
the running statistics after it. Then it writes its own state dictionary, which is read back. Prints
one JSON line: for each network the relative errors (the largest difference divided by the largest
value) and whether the weights read back are bit-identical.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import jax
import numpy as np

from ssl_jax.core.tree import map_with_name
from ssl_jax.weights import conversion, files, networks, timm
from ssl_jax.weights.places import under

PEER = Path(__file__).with_name("interchange_peer.py")
TINY = dict(name="vit", size=None, patch=4, image_size=32, dim=64, depth=3, heads=2)
CASES = {  # name -> backbone, side of the images, library, channels
    "resnet18": (dict(name="resnet", depth=18), 224, "timm", 3),
    "resnet50": (dict(name="resnet", depth=50), 224, "timm", 3),
    "vit_tiny": (dict(name="vit", size="tiny"), 224, "timm", 3),
    "vit_small": (dict(name="vit", size="small"), 224, "timm", 3),
    "vit_base": (dict(name="vit", size="base"), 224, "timm", 3),
    "resnet18_cifar": (dict(name="resnet", depth=18, stem="cifar"), 32, "timm", 3),
    "resnet18_grey": (dict(name="resnet", depth=18), 64, "timm", 1),
    "vit_sincos": (TINY | dict(position="sincos"), 32, "timm", 3),
    "vit_mean": (TINY | dict(cls_token=False, pool="avg", norm_after_pool=True), 32, "timm", 3),
    "vit_registers": (TINY | dict(registers=4, layer_scale=0.1, mlp="swiglu"), 32, "timm", 3),
    "vit_clip": (TINY | dict(pre_norm=True, norm_eps=1e-5), 32, "timm", 3),
    "vit_relative": (TINY | dict(position="relative", layer_scale=0.1), 32, "timm", 3),
    "swin": (
        dict(name="swin", size=None, window=4, image_size=64, dim=24, depths=(2, 4), heads=(2, 4)),
        64,
        "timm",
        3,
    ),
    "torchvision_resnet50": (dict(name="resnet", depth=50), 64, "torchvision", 3),
    "torchvision_vit": (dict(name="vit", size="tiny", image_size=64), 64, "torchvision", 3),
}
BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer_python", required=True)
    parser.add_argument("--only", default="", help="names of networks, separated by commas")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(CASES)
    reports = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = {case: write(folder, case) for case in chosen}
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        environment.pop("PYTHONPATH", None)
        subprocess.run([args.peer_python, PEER, folder], check=True, env=environment)
        for case in chosen:
            reports[case] = compare(folder, case, ours[case])
    print(json.dumps(reports))


def write(folder: Path, case: str) -> dict[str, np.ndarray]:
    """Export a random network and the images; return its variables by path."""
    backbone, side, library, channels = CASES[case]
    net = networks.build(backbone, channels)
    draws = np.random.default_rng(0)

    def draw(path: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
        if path.endswith(("scale", "var")):
            return draws.uniform(0.5, 1.5, like.shape).astype(np.float32)
        fan_in = np.prod(like.shape[-4:-1]) if path.endswith("kernel") else 100
        return (draws.normal(size=like.shape) / fan_in**0.5).astype(np.float32)

    params, stats = map_with_name(draw, networks.shapes(net))
    images = draws.normal(size=(BATCH, side, side, channels)).astype(np.float32)
    variables = conversion.flat(params, stats)
    tensors, lines = timm.export(variables, backbone, channels, library)
    files.write(folder / f"{case}.safetensors", tensors, {"build": "\n".join(lines)})
    np.savez(folder / f"{case}.in.npz", images=images.transpose(0, 3, 1, 2), train=bool(stats))
    return variables


def compare(folder: Path, case: str, ours: dict[str, np.ndarray]) -> dict[str, float | bool]:
    backbone, _, _, channels = CASES[case]
    net = networks.build(backbone, channels)
    params, stats = conversion.fill(ours, networks.shapes(net), case)
    with np.load(folder / f"{case}.in.npz", allow_pickle=False) as data:
        images = data["images"].transpose(0, 2, 3, 1)
    with np.load(folder / f"{case}.out.npz", allow_pickle=False) as data:
        theirs = dict(data)

    def forward(train: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        run = jax.jit(lambda p, s, x: net.apply(p, s, x, train=train))
        with jax.default_matmul_precision("highest"):
            out, updated = run(params, stats, images)
        return np.asarray(out.pooled), conversion.flat({}, updated)

    report: dict[str, float | bool] = {"features": error(forward(False)[0], theirs["features"])}
    if stats:
        out, after = forward(True)
        report["train_features"] = error(out, theirs["train_features"])
        running = conversion.to_timm(after, backbone)
        report["running_statistics"] = max(
            error(array, theirs[f"after.{name}"]) for name, array in running.items()
        )
    back = networks.load(folder / f"{case}.back.safetensors", backbone, channels, strict=False)
    again = under(back.networks[back.encoder], "backbone/")
    # Of relative positions timm has no bias of the keys, of registers a merged class token.
    differ = [p for p in ours if p not in again or not np.array_equal(ours[p], again[p])]
    report["bitwise"] = not differ
    return report | ({"differ": differ} if differ else {})


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}")


if __name__ == "__main__":
    main()
