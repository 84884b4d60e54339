"""Features learned from crops of one image, and from a data set, stage by stage.

    python benchmarks/single_image.py --data=npz:train.npz --eval_data=npz:test.npz --workdir=W \\
        [--image=FILE] [--config=METHOD:RECIPE --stages=N]

Asano et al. 2020 (1904.13132) find the first stages of a network trained on one image as good as
those of one trained on a million, and the last ones not. This trains a method on as many crops of
one image, by default scikit-learn's china.jpg, as it takes images of the set, from the same
weights, and measures every stage by logistic regression on the set's own images. Prints one JSON
line: accuracies on the evaluation images by stage, from the first to the last, of either network,
of the untrained one and of raw pixels. Run again, the command skips what is done.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import sklearn.datasets

from ssl_jax.data.sources import open_source
from ssl_jax.evals.records import ResultsFile
from ssl_jax.run.study import finished

ROOT = Path(__file__).parent.parent
SHARE, SIDE = 0.2, 32  # of the set's images; pixels of a crop


def main() -> None:
    china = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval_data", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--image", type=Path, default=china)
    parser.add_argument("--config", default="rotnet:cifar10_cpu")
    parser.add_argument("--stages", type=int, default=3, help="of the recipe's network")
    args, further = parser.parse_known_args()
    folder, image = args.workdir.absolute(), args.image.absolute()
    crops = round(SHARE * len(open_source(args.data)))
    sets = {
        "set": (f"--data={args.data}", f"--config.data.fraction={SHARE}"),
        "one_image": (f"--data=npz:{write_crops(image, crops, folder)}",),
    }
    layers = f"--sweep=stage={','.join(map(str, range(args.stages)))}"
    own = (f"--data={args.data}", f"--eval_data={args.eval_data}")
    out: dict[str, object] = {"benchmark": "single_image", "config": args.config, "images": crops}
    out |= {"image": image.name}
    for name, data in sets.items():
        run = folder / name
        if not finished(run):
            settings = (f"--config={args.config}", "--config.evals.every=-1", *further)
            command("train", f"--workdir={run}", f"--eval_data={args.eval_data}", *data, *settings)
        further_flags = ("--eval=linear", "--sweep=pool=grid", layers)
        # Both networks start from the same weights, so the baselines are measured once.
        once = () if name == "set" else ("--no_baselines",)
        command("evaluate", f"--workdir={run}", *own, *further_flags, *once)
        records = ResultsFile(run / "eval" / "results.jsonl").read()
        last = {r["settings"]["stage"]: r for r in records if r["protocol"] == "linear"}
        by_stage = [last[stage] for stage in range(args.stages)]
        out[name] = [round(r["results"]["eval/linear_top1"], 4) for r in by_stage]
        for kind in by_stage[0].get("baselines", {}):
            out[kind] = [round(r["baselines"][kind]["eval/linear_top1"], 4) for r in by_stage]
    print(json.dumps(out))


def write_crops(image: Path, crops: int, folder: Path) -> Path:
    """Write the crops to crops.npz, as the recipe keeps its images in memory."""
    file = folder / "crops.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = open_source(f"single_image:{image}#crops={crops}&side={SIDE}")
        np.savez(file, images=np.stack([source.read(i) for i in range(crops)]))
    return file


def command(*words: str) -> None:
    arguments = [sys.executable, "-m", "ssl_jax", *words]
    subprocess.run(arguments, cwd=ROOT, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
