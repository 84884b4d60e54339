"""Train steps on one GPU, and a run on CIFAR-10, in pieces of the minutes that one is lent for.

    python benchmarks/gpu.py steps --output=gpu.json [--seconds=540] [--peer_python=VENV/bin/python]
    python benchmarks/gpu.py cifar10 --workdir=W --data=npz:train.npz --eval_data=npz:test.npz \\
        [--seconds=540] [--config=simclr:cifar10]

`steps` times the train steps of `CASES` on random images: ours with every form of attention and,
with --peer_python, a PyTorch step of the same method, network and images (`gpu_peer.py`) on the
same card. Every measurement is written to --output as soon as it is made; those that are in it are
not repeated, and none starts after --seconds. Its FLOPs are those of matrix products and
convolutions, recomputation included, and `utilisation` is their share of the card's bfloat16 peak.

`cifar10` trains a ResNet-18 for 200 epochs, with kNN at the end. After --seconds it saves and ends.

Run the same command again for the rest. Both print one JSON line. With --dry_run networks, images
and steps are few: whether everything runs can be seen on a CPU.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.watch import PREEMPTED

ROOT = Path(__file__).parent.parent
PEER = Path(__file__).with_name("gpu_peer.py")
WARM, ROUNDS, STEPS = 3, 5, 5  # steps before the first round; rounds, of which the median counts

Changes = tuple[tuple[str, Any], ...]

CASES = {  # recipe -> images per step
    "simclr:imagenet": 512,
    "dino:imagenet_vit_base": 64,
    "mae:imagenet": 256,
}
TRANSFORMERS = ("dino:imagenet_vit_base", "mae:imagenet")
FORMS: dict[str, Changes] = {
    "xla": (("backbone.attention_form", "xla"),),
    "cudnn": (("backbone.attention_form", "cudnn"),),
    "cudnn, remat none": (("backbone.attention_form", "cudnn"), ("backbone.remat", "none")),
}
PEER_FORMS = ("eager", "compiled")
SMALL_VIT: Changes = (
    ("backbone.size", None),
    ("backbone.dim", 64),
    ("backbone.depth", 2),
    ("backbone.heads", 2),
    ("backbone.image_size", 32),
)
SMALL: dict[str, Changes] = {  # of --dry_run
    "simclr:imagenet": (("objective.view.size", 32), ("backbone.num_filters", 8)),
    "dino:imagenet_vit_base": (
        *((f"objective.views.{i}.size", size) for i, size in enumerate((32, 32, 16))),
        ("objective.prototypes", 64),
        *SMALL_VIT,
    ),
    "mae:imagenet": (("objective.view", {"size": 32}), ("objective.decoder_dim", 64), *SMALL_VIT),
}
CIFAR10: dict[str, Any] = {"train.epochs": 200}
SMALL_CIFAR10 = {
    "backbone.num_filters": 8,
    "train.batch_size": 32,
    "train.epochs": 0,
    "train.steps": 6,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("steps", "cifar10"))
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--recipes", default=",".join(CASES))
    parser.add_argument("--peer_python", help="an interpreter with torch, torchvision and timm")
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--eval_data")
    parser.add_argument("--config", default="simclr:cifar10")
    args = parser.parse_args()
    print(json.dumps(steps(args) if args.what == "steps" else cifar10(args)))


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what --output lacks, until the time is over; return all that it has then."""
    end = time.monotonic() + args.seconds
    done = json.loads(args.output.read_text()) if args.output.exists() else {}
    missing = 0
    for recipe in args.recipes.split(","):
        forms = FORMS if recipe in TRANSFORMERS else {"ours": ()}
        if args.dry_run:  # cuDNN needs a GPU
            forms = {"xla": FORMS["xla"]} if recipe in TRANSFORMERS else forms
        peers = PEER_FORMS[: 1 if args.dry_run else None] if args.peer_python else ()
        for name in (*forms, *(f"torch, {form}" for form in peers)):
            key = f"{recipe}, {name}" + (", dry run" if args.dry_run else "")
            if key in done:
                continue
            if time.monotonic() > end:
                missing += 1
                continue
            try:
                if name in forms:
                    done[key] = ours(recipe, forms[name], args.dry_run)
                else:
                    done[key] = peer(recipe, name.partition(", ")[2], args)
            except (UserError, jax.errors.JaxRuntimeError) as e:  # such as too little memory
                done[key] = {"error": str(e).strip().splitlines()[0][:300]}
            args.output.write_text(json.dumps(done, indent=1) + "\n")
            print(key, json.dumps(done[key]), file=sys.stderr, flush=True)
    return {"benchmark": "gpu", "missing": missing, "steps": done}


def experiment(recipe: str, changes: Changes, dry_run: bool) -> Any:
    """Build the program of a recipe on the first device, with the images of ImageNet's sizes."""
    from ssl_jax.run.compile import with_spec
    from ssl_jax.run.configs import configured
    from ssl_jax.run.experiment import Experiment

    images = 4 if dry_run else CASES[recipe]
    small = SMALL[recipe] if dry_run else ()
    config = configured(recipe, [("train.batch_size", images), *small, *changes])
    return Experiment.from_config(with_spec(config), devices=jax.devices()[:1])


def ours(recipe: str, changes: Changes, dry_run: bool) -> dict[str, Any]:
    """Time the train step of a recipe, as `ssl-jax train` runs it, on one batch."""
    from ssl_jax.cost import aot, flops
    from ssl_jax.training import state
    from ssl_jax.training.step import make_train_step

    made = experiment(recipe, changes, dry_run)
    draw = np.random.default_rng(0)

    def array(like: Any) -> jax.Array:
        high = 256 if like.dtype == np.uint8 else 1
        return jax.device_put(draw.integers(0, high, like.shape).astype(like.dtype), like.sharding)

    abstract = aot.abstract_batch(made.objective.inputs(), made.spec, made.mesh)
    batch = jax.tree.map(array, abstract)
    with jax.set_mesh(made.mesh):
        step = make_train_step(made.objective, made.tx, made.schedule, made.mesh, made.placed)
        work = flops.count(step, made.abstract_state, abstract)
        began = time.perf_counter()
        run: Any = step.lower(made.abstract_state, abstract).compile()
        compiling = time.perf_counter() - began
        current = state.create(made.objective, made.tx, 0, made.placed)
        times = []
        for count in (WARM, *[1 if dry_run else STEPS] * ROUNDS):
            began = time.perf_counter()
            for _ in range(count):
                current, metrics = run(current, batch)
            jax.block_until_ready((current, metrics))
            times.append((time.perf_counter() - began) / count)
    device, seconds = jax.devices()[0].device_kind, statistics.median(times[1:])
    peak = flops.peak(device)
    return figures(device, made.spec.global_batch, seconds) | {
        "gflop_per_image": round(work / made.spec.global_batch / 1e9, 2),
        "utilisation": round(work / seconds / peak, 3) if peak else None,
        "peak_gib": memory(run),
        "compile_s": round(compiling, 1),
        "loss": round(float(metrics["train/loss"]), 4),
    }


def memory(run: Any) -> float:
    """Return the GiB that a compiled program needs."""
    sizes = run.memory_analysis()
    alias = sizes.alias_size_in_bytes
    total = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    return round((total - alias) / 2**30, 2)


def peer(recipe: str, form: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time the step in PyTorch, of a network and views of the same sizes."""
    made = experiment(recipe, (), args.dry_run)
    views = [(v.size, v.count) for v in made.objective.inputs().views]
    request = {
        "method": recipe.partition(":")[0],
        "images": made.spec.global_batch,
        "views": [size for size, count in views for _ in range(count)],
        "small": args.dry_run,
        "compile": form == "compiled",
        "counts": (WARM, *[1 if args.dry_run else STEPS] * ROUNDS),
    }
    command = [args.peer_python, PEER, json.dumps(request)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        return {"error": run.stderr.strip().splitlines()[-1][:300]}
    measured = json.loads(run.stdout.splitlines()[-1])
    seconds = statistics.median(measured["seconds"][1:])
    rest = {name: measured[name] for name in ("peak_gib", "loss", "torch")}
    return figures(measured["device"], request["images"], seconds) | rest


def figures(device: str, images: int, seconds: float) -> dict[str, Any]:
    """Return the figures that both sides have, of one step of `images` in `seconds`."""
    return {
        "device": device,
        "images": images,
        "ms": round(1000 * seconds, 2),
        "images_per_second": round(images / seconds, 1),
    }


def cifar10(args: argparse.Namespace) -> dict[str, Any]:
    """Train until the run is finished or the time is over; return its numbers, if it is."""
    if not (args.workdir and args.data and args.eval_data):
        sys.exit("gpu.py cifar10 needs --workdir, --data and --eval_data")
    settings = SMALL_CIFAR10 if args.dry_run else CIFAR10
    command = [
        *(sys.executable, "-m", "ssl_jax", "train", f"--config={args.config}"),
        *(f"--workdir={args.workdir.absolute()}", f"--data={args.data}"),
        f"--eval_data={args.eval_data}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
    try:
        code = process.wait(args.seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # it finishes its step and saves
        code = process.wait()
    if code not in (0, PREEMPTED):
        sys.exit(f"ssl-jax train ended with {code}")
    out = {"benchmark": "gpu", "config": args.config, "finished": code == 0}
    if code == 0:
        summary = json.loads((args.workdir / "summary.json").read_text())
        names = [f"{of}eval/knn_top1" for of in ("", "untrained/", "pixels/")]
        out |= {name: summary.get(name) for name in names}
    return out


if __name__ == "__main__":
    main()
