"""What every `imagenet` recipe takes on a TPU slice: compiled ahead of time, nothing is run.

    python benchmarks/pods.py [--recipes=simclr:imagenet,mae:imagenet] [--page]

Compiles the train step of each recipe with `ssl-jax compile` (libtpu must be installed; a TPU need
not be there), one after another, and keeps the reports in docs/pods.json; a row that is there, of
the very same recipe, is not compiled again, so the command goes on where it was stopped.
docs/pods.md is written from it (--page: only that). The slice is the smallest v5e one with at most
16 images of the batch a chip, between 16 and 64 chips; CLIP's batch of 32,768 gets 256.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ROWS, PAGE = ROOT / "docs" / "pods.json", ROOT / "docs" / "pods.md"
SLICES = {16: "v5e:4x4", 32: "v5e:4x8", 64: "v5e:8x8", 256: "v5e:16x16"}
FIRST = (
    "simclr:imagenet",
    "dino:imagenet_vit_base",
    "mae:imagenet",
    "byol:imagenet",
    "swav:imagenet",
    "moco_v3:imagenet",
    "barlow_twins:imagenet",
)
GIB = 2**30


def main() -> None:
    from ssl_jax.run.compile import compile_step
    from ssl_jax.run.configs import load_config

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", default=",".join(recipes()))
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--hlo", default="", help="folder to keep the programs' texts in")
    args = parser.parse_args()
    for name in () if args.page else args.recipes.split(","):
        if read().get(name, {}).get("recipe") == fingerprint(name):
            continue
        config = load_config(name)
        topology = slice_of(config["train"]["batch_size"])
        print(f"{name} on {topology}", flush=True)
        text = f"{args.hlo}/{name.replace(':', '_')}.txt" if args.hlo else ""
        try:
            report = compile_step(config, topology, hlo=text)
        except ValueError as e:  # said on the page, and the others go on
            report = {"fits": False, "message": str(e)}
        row = {"recipe": fingerprint(name), "topology": topology, "report": report}
        row["backbone"] = backbone(config)
        write(read() | {name: row})
        print(json.dumps(report), flush=True)
    PAGE.write_text(page(read()))


def recipes() -> list[str]:
    """Every recipe for ImageNet, those asked for first in front."""
    from ssl_jax.run.configs import methods
    from ssl_jax.run.configs import recipes as of

    every = [f"{m}:{r}" for m in methods() for r in of(m) if r.startswith("imagenet")]
    return sorted(every, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def slice_of(batch: int) -> str:
    chips = min(max(batch // 16, 16), 64)
    return SLICES[256 if batch > 4096 else chips]


def backbone(config: dict[str, Any]) -> str:
    made = config["backbone"]
    if made["name"] == "resnet":
        return f"ResNet-{made['depth']}"
    size = str(made.get("size", "")).capitalize()[:1]
    return f"{made['name'].capitalize().replace('Vit', 'ViT')}-{size}/{made.get('patch', 4)}"


def fingerprint(name: str) -> str:
    """Of the recipe as its file has it: one whose step changed is compiled again."""
    from ssl_jax.run.configs import load_config

    kept = {k: v for k, v in load_config(name).items() if k not in ("evals", "checkpoint")}
    text = json.dumps(kept, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read() -> dict[str, Any]:
    return json.loads(ROWS.read_text()) if ROWS.exists() else {}


def write(rows: dict[str, Any]) -> None:
    """In one piece: a row is minutes of work."""
    with tempfile.NamedTemporaryFile("w", dir=ROWS.parent, delete=False) as file:
        file.write(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    Path(file.name).replace(ROWS)
    PAGE.write_text(page(rows))


def page(rows: dict[str, Any]) -> str:
    """docs/pods.md."""
    lines = [cells(name, rows.get(name)) for name in recipes()]
    titles = (
        "recipe | backbone | slice | batch | GiB a chip | of them temporary | TFLOP an image | "
        "MB an image | collective MB a step | roofline bound, ms a step | compile, CPU s | fits"
    )
    table = [titles, "|".join(["---"] * len(titles.split("|"))), *(" | ".join(r) for r in lines)]
    return INTRODUCTION + "\n".join(f"| {line} |" for line in table) + "\n" + notes(rows)


def cells(name: str, row: dict[str, Any] | None) -> list[str]:
    from ssl_jax.run.configs import load_config

    config = load_config(name)
    batch = config["train"]["batch_size"]
    about = [f"`{name}`", backbone(config), slice_of(batch), f"{batch:,}"]
    if row is None or row["recipe"] != fingerprint(name):
        return [*about, *["not run"] * 8]
    found = row["report"]
    memory = found.get("memory", {})
    seconds = f"{found['compile_cpu_seconds']:.0f}" if "compile_cpu_seconds" in found else "?"
    if not memory.get("peak"):
        return [*about, *[""] * 6, seconds, "**no**: " + found["message"]]
    return [
        *about,
        f"{memory['peak'] / GIB:.2f}",
        f"{memory['activations'] / GIB:.2f}",
        f"{found['flops_per_image'] / 1e12:.4f}",
        f"{found['bytes_per_image'] / 1e6:.0f}",
        f"{sum(link['bytes'] for link in found['links']) / 1e6:.1f}",
        f"{found['bound']['seconds'] * 1e3:.1f}",
        seconds,
        "yes" if found["fits"] else "**no**",
    ]


def notes(rows: dict[str, Any]) -> str:
    """What was not counted in full."""
    lines = [
        f"- `{name}`: {', '.join(row['report']['unknown'])} counted once\n"
        for name, row in sorted(rows.items())
        if row["report"].get("unknown")
    ]
    head = "\nLoops whose number of turns the program does not say:\n\n"
    return head + "".join(lines) if lines else ""


INTRODUCTION = """# What a step takes on a pod

`ssl-jax compile` builds the train step of a recipe, the very one that `ssl-jax train` runs, for a
TPU slice that is not there, from shapes alone, and reads memory, FLOPs, bytes and communication
from the compiled program:

```
pip install -e '.[tpu]'
ssl-jax compile --config=simclr:imagenet --topology=v5e:8x8
ssl-jax compile --config=simclr:imagenet --topology=v5e:8x8 --find_batch
ssl-jax compile --config=mae:imagenet --topology=v5e:8x8 --slices=2 --config.mesh.fsdp=8 --json
```

Kinds are v4, v5e, v5p and v6e; several slices lie along `mesh.replica`. The exit code is 0 if the
step fits and 1 if it does not.

How to read it:

- **GiB a chip** is all that the step needs at once: parameters, optimizer state, `extra` and batch,
  the temporary memory (activations and gradients) and the program. A v5e chip has 16 GiB.
- **FLOPs** are those of matrix products and convolutions in the compiled program, recomputation
  and augmentation included, loops times their turns, kernels as they say. An image is an
  example of the batch with all of its views.
- **Bytes** are read and written in HBM; what the compiler keeps on the chip (VMEM) is free.
- **Collective MB** are the arrays that a chip gathers, reduces or sends in a step.
- The **roofline bound** is the longest of FLOPs, HBM and interconnect, each at its data-sheet peak.
  No schedule can beat it. It is not a prediction.

Nothing here was run on a TPU. Made by `python benchmarks/pods.py` (its docstring says which slice)
from [pods.json](pods.json); compile seconds are CPU time, of all
threads.

"""


if __name__ == "__main__":
    main()
