"""Peer of `interchange.py`, run by a Python interpreter with torch, timm and torchvision."""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

# With torch for CPUs, the compiled part of PyPI's torchvision does not load, but its models do.
for name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):
        torch.library.define(
            f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )


def main(folder: Path) -> None:
    torch.manual_seed(0)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            lines = file.metadata()["build"]
        scope: dict = {}
        exec(lines, scope)
        model = scope["model"]
        model.load_state_dict(load_file(path), strict=True)
        with np.load(folder / f"{path.stem}.in.npz", allow_pickle=False) as data:
            images, train = torch.from_numpy(data["images"]), bool(data["train"])
        # Before the forward pass in training mode changes the statistics.
        save_file(dict(model.state_dict()), folder / f"{path.stem}.back.safetensors")
        with torch.no_grad():
            out = {"features": model.eval()(images).numpy()}
            if train:
                out["train_features"] = model.train()(images).numpy()
                state = model.state_dict()
                out |= {f"after.{k}": v.numpy() for k, v in state.items() if "running_" in k}
        np.savez(folder / f"{path.stem}.out.npz", **out)
    print(json.dumps({"torch": torch.__version__}), file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
