"""Memory and cost of every `imagenet` recipe on a TPU slice, compiled ahead of time and not run.

    python benchmarks/pods.py [--recipes=simclr:imagenet,mae:imagenet] [--page]

Compiles the train step of each recipe as `ssl-jax compile` does (needs libtpu but no TPU), one by
one, and stores the reports in docs/pods.json. A compilation stops once memory is assigned, before
the program's code is made (`pods_plan.py`), unless --code is set or less than 0.5 GiB is left for
the code. Recipes whose unchanged report is in the file are skipped (unless --again), so an
interrupted command resumes where it stopped. Then writes docs/pods.md (--page: only that). The
slice is the smallest v5e slice with at most 16 images of the batch per chip, between 16 and 64
chips (8, if 16 do not divide the batch), or the next one that the step fits; a batch of 32,768
(CLIP) and a wider ResNet with a batch that they divide (SimCLR v2) get 256, and `OWN` names those
of recipes that are meant for others.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import math
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ROWS, PAGE = ROOT / "docs" / "pods.json", ROOT / "docs" / "pods.md"
SLICES = {8: "v5e:2x4", 16: "v5e:4x4", 32: "v5e:4x8", 64: "v5e:8x8", 256: "v5e:16x16"}
OWN = {"dinov2:imagenet": "v5e:16x16", "dinov2:imagenet_giant": "v5p:4x4x8"}
FIRST = (
    "simclr:imagenet",
    "dino:imagenet_vit_base",
    "mae:imagenet",
    "byol:imagenet",
    "swav:imagenet",
    "moco_v3:imagenet",
    "barlow_twins:imagenet",
)
STEP = ("objective", "backbone", "optim", "mesh", "train")  # sections that affect the step
GIB = 2**30
# Of a host per chip. v5e: 112 for 4 chips, 224 for 8 (docs.cloud.google.com/tpu/docs/v5e, "VM
# types", read in November 2026); v5p: 208 for 4 (.../tpu/docs/v5p, read in December 2026).
VCPUS = {"v5e": 28, "v5p": 52}
CODE = 0.5 * GIB  # more than the code of any row that was compiled to the end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", default=",".join(recipes()))
    parser.add_argument("--again", action="store_true", help="compile also unchanged recipes")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--code", action="store_true", help="compile to the end")
    parser.add_argument("--hlo", default="", help="folder for the programs' texts")
    args = parser.parse_args()
    try:
        work(() if args.page else args.recipes.split(","), args)
    finally:  # once: it looks up the settings of all recipes
        PAGE.write_text(page(read()))


def work(names: Iterable[str], args: argparse.Namespace) -> None:
    """Compile the recipes that have no current row, or all with --again."""
    from ssl_jax.run.configs import load_config

    for name in names:
        if not args.again and read().get(name, {}).get("recipe") == fingerprint(name):
            continue
        config = load_config(name)
        text = f"{args.hlo}/{name.replace(':', '_')}.txt" if args.hlo else ""
        for topology in slices(name, config):
            print(f"{name} on {topology}", flush=True)
            try:
                report = compiled(config, topology, text, args.code)
            except ValueError as e:  # the page shows it; the other recipes follow
                report = {"fits": False, "message": str(e)}
            if report["fits"]:
                break
        row = {"recipe": fingerprint(name), "topology": topology, "report": report}
        row["compiled"] = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
        row["libtpu"] = importlib.metadata.version("libtpu")
        write(read() | {name: row})
        print(json.dumps(report), flush=True)


def compiled(config: dict[str, Any], topology: str, hlo: str, code: bool) -> dict[str, Any]:
    """Report on a step, whose code is made if `code` or if it might not fit."""
    from ssl_jax.run.compile import compile_step

    if not code:
        sys.path.insert(0, str(ROOT))
        from benchmarks.pods_plan import plan_step

        report = plan_step(config, topology, hlo)
        memory = report["memory"]
        if not memory["peak"] or memory["peak"] + CODE <= memory["capacity"]:
            return report
    return compile_step(config, topology, hlo=hlo)


def recipes() -> list[str]:
    """List every recipe for ImageNet, those of `FIRST` first."""
    from ssl_jax.run.configs import methods
    from ssl_jax.run.configs import recipes as of

    every = [f"{m}:{r}" for m in methods() for r in of(m) if r.startswith("imagenet")]
    return sorted(every, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def slices(name: str, config: dict[str, Any]) -> list[str]:
    """List the slices to try, the smallest first."""
    if name in OWN:
        return [OWN[name]]
    batch = config["train"]["batch_size"]
    if batch > 4096 or (config["backbone"].get("width", 1) > 1 and batch % 256 == 0):
        return [SLICES[256]]
    chips = min(max(batch // 16, 16), 64)
    least = chips if batch % chips == 0 else 8
    return [topology for size, topology in SLICES.items() if size >= least]


def backbone(config: dict[str, Any]) -> str:
    options = config["backbone"]
    if options["name"] == "resnet":
        return f"ResNet-{options['depth']}"
    if "size" not in options:
        return str(options["name"])
    size = str(options["size"]).capitalize()[:1]
    return f"{options['name'].capitalize().replace('Vit', 'ViT')}-{size}/{options.get('patch', 4)}"


def fingerprint(name: str) -> str:
    """Digest of the settings of the step that are not their defaults; a recipe with another digest
    is compiled again. It depends neither on how a config is written nor on keys that are new.
    """
    from ssl_jax.run.compile import with_spec
    from ssl_jax.run.configs import load_config
    from ssl_jax.run.experiment import Experiment

    made = Experiment.from_config(with_spec(load_config(name)))
    settings, usual = made.resolved(), made.defaults()
    keys = {
        section: {k: v for k, v in settings[section].items() if v != usual[section].get(k)}
        for section in STEP
    }
    text = json.dumps(keys, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read() -> dict[str, Any]:
    return json.loads(ROWS.read_text()) if ROWS.exists() else {}


def write(rows: dict[str, Any]) -> None:
    """Replace the file atomically, since each row takes minutes to compile."""
    with tempfile.NamedTemporaryFile("w", dir=ROWS.parent, delete=False) as file:
        file.write(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    Path(file.name).replace(ROWS)


def page(rows: dict[str, Any]) -> str:
    """Render docs/pods.md."""
    lines = [cells(name, rows.get(name)) for name in recipes()]
    titles = (
        "recipe | backbone | slice | batch | GiB per chip | temporary GiB | TFLOP per image | "
        "MB per image | collective MB per step | roofline bound, ms per step | "
        "images per s and vCPU | compile, CPU s | fits | compiled"
    )
    table = [titles, "|".join(["---"] * len(titles.split("|"))), *(" | ".join(r) for r in lines)]
    return INTRODUCTION + "\n".join(f"| {line} |" for line in table) + "\n" + notes(rows)


def cells(name: str, row: dict[str, Any] | None) -> list[str]:
    from ssl_jax.run.configs import load_config

    config = load_config(name)
    batch = config["train"]["batch_size"]
    current = row is not None and row["recipe"] == fingerprint(name)
    topology = row["topology"] if row and current else slices(name, config)[0]
    first = [f"`{name}`", backbone(config), topology, f"{batch:,}"]
    if row is None or not current:
        return [*first, *["not run"] * 10]
    report, chips = row["report"], math.prod(row["report"].get("mesh", {}).values())
    memory, vcpus = report.get("memory", {}), VCPUS[topology.partition(":")[0]]
    seconds = f"{report['compile_cpu_seconds']:.0f}" if "compile_cpu_seconds" in report else "?"
    if not memory.get("peak"):
        return [*first, *[""] * 7, seconds, "**no**: " + report["message"], row["compiled"]]
    return [
        *first,
        f"{memory['peak'] / GIB:.2f}" + ("+" if memory["program"] is None else ""),
        f"{memory['activations'] / GIB:.2f}",
        f"{report['flops_per_image'] / 1e12:.4f}",
        f"{report['bytes_per_image'] / 1e6:.0f}",
        f"{sum(link['bytes'] for link in report['links']) / 1e6:.1f}",
        f"{report['bound']['seconds'] * 1e3:.1f}",
        f"{report['bound']['images_per_second'] / chips / vcpus:.0f}",
        seconds,
        "yes" if report["fits"] else "**no**",
        row["compiled"],
    ]


def notes(rows: dict[str, Any]) -> str:
    """List the loops whose trip count is unknown."""
    lines = [
        f"- `{name}`: {', '.join(row['report']['unknown'])} counted once\n"
        for name, row in sorted(rows.items())
        if row["report"].get("unknown")
    ]
    head = "\nLoops whose trip count the program does not contain:\n\n"
    return head + "".join(lines) if lines else ""


INTRODUCTION = """# Memory and cost per step on a pod

`ssl-jax compile` compiles the train step of a recipe, the same step that `ssl-jax train` runs, from
shapes alone, and reads memory, FLOPs, bytes and communication from the compiled program. It needs
neither the TPU slice nor the data:

```
pip install -c constraints.txt -e '.[tpu]'
ssl-jax compile --config=simclr:imagenet --topology=v5e:8x8
ssl-jax compile --config=simclr:imagenet --topology=v5e:8x8 --find_batch
ssl-jax compile --config=moco_v3:imagenet --topology=v5e:8x8 --remat=auto
ssl-jax compile --config=mae:imagenet --topology=v5e:8x8 --slices=2 --config.mesh.fsdp=8 --json
```

The TPU types are v4, v5e, v5p and v6e; several slices are placed along `mesh.replica`. The exit
code is 0 if the step fits and 1 if it does not.

The columns:

- **GiB per chip** is the peak memory of the step: parameters, optimizer state, `extra`, batch,
  temporary memory (activations and gradients) and the program. A v5e chip has 16 GiB, a v5p 95. A
  "+" marks a row without the program, whose compilation was stopped before its code was made; in
  the other rows the code takes 0.03 to 0.23 GiB.
- **FLOPs** are those of matrix products and convolutions in the compiled program, including
  recomputation and augmentation; loops are multiplied by their trip counts, and kernels count as
  they declare. An image is one example of the batch with all of its views.
- **Bytes** are read and written in HBM; data that stay on the chip (VMEM) are free.
- **Collective MB** is the size of the arrays that a chip gathers, reduces or sends per step.
- The **roofline bound** is the longest of the times for FLOPs, HBM and interconnect, each at its
  data-sheet peak. No schedule can beat it. It is not a prediction.
- **Images per s and vCPU** is what a host's input pipeline must deliver to keep up with that bound,
  divided over the vCPUs that a host has for each chip: 28 of
  [v5e](https://docs.cloud.google.com/tpu/docs/v5e), 52 of
  [v5p](https://docs.cloud.google.com/tpu/docs/v5p). One core of the machine in
  [performance](performance.md) decodes and crops 797 images of 500 x 375 pixels per second for two
  views; larger images and more crops take longer, and `ssl-jax prepare --size` makes them smaller.
  No such host was measured.

Nothing here was run on a TPU. `python benchmarks/pods.py` writes this page from
[pods.json](pods.json) (its docstring says which slice is used); compile seconds are CPU time of all
threads. Compilations marked "+" took a tenth of that time. `context_prediction:imagenet` and
`mae:imagenet` have the same FLOPs, bytes and collectives both ways and 16 kB less temporary memory.
"Not run" is a recipe that is new, or whose settings differ from those that were compiled. A row
holds for the code of its date.

Bytes and memory depend on the compiler: all rows are of libtpu 0.0.52. With 0.0.42, which jax
0.10.2 requires, four recipes had the same FLOPs, bytes within 0.8 % and a peak 4 to 23 % higher.

"""


if __name__ == "__main__":
    main()
