"""Writes docs/methods/README.md, the table of all methods: `python docs/make_methods.py`.

Paper, family and needs come from the methods' files, proofs from the tests that there are, numbers
from docs/results.json (`benchmarks/learning.py`) and docs/cifar10.json (kept by hand, each entry
with its command). A test fails when the page is not what this makes.
"""

import importlib
import json
import re
import statistics
from pathlib import Path

from ssl_jax.cli.methods import describe
from ssl_jax.run.configs import methods

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "methods" / "README.md"
# The page of each family, by what a method's file calls it.
PAGES = {
    "contrastive": "contrastive.md",
    "siamese": "siamese.md",
    "clustering": "clustering.md",
    "masked": "masked.md",
    "pretext": "pretext.md",
    "multi-modal": "multi_modal.md",
    "baseline": "baseline.md",
}
HEAD = """# All methods

Made by `python docs/make_methods.py`. "Golden" are the tests that compare with values which the
authors' own code gave, "other tests" those of properties; beside these, every method passes
`tests/objectives/contract_test.py` (loss, gradients and state equal on one device and on eight,
resume to the last bit). Digits: accuracy with 5 labels a class, mean of the seeds, and what was
gained over the untrained network ([more](../results.md)). CIFAR-10: kNN accuracy, and raw pixels'
([how](../performance.md)).

"""


def page() -> str:
    digits = json.loads((ROOT / "docs" / "results.json").read_text())
    cifar10 = json.loads((ROOT / "docs" / "cifar10.json").read_text())
    lines = [
        "| method | family | paper | golden | other tests | digits | CIFAR-10 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in methods():
        family, paper, _ = describe(importlib.import_module(f"ssl_jax.objectives.{name}"))
        golden, other = proofs(name)
        cells = (
            f"[{name}](../../ssl_jax/objectives/{name}.py)",
            f"[{family}]({PAGES[family]})",
            re.sub(r"\((\d{4}\.\d{4,5})\)", r"([\1](https://arxiv.org/abs/\1))", paper),
            ", ".join(golden) or "no fixture",
            ", ".join(other),
            on_digits(digits[name]["seeds"]) if name in digits else "not run",
            on_cifar10(cifar10[name]) if name in cifar10 else "not run",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return HEAD + "\n".join(lines) + "\n"


def proofs(name: str) -> tuple[list[str], list[str]]:
    """Links to the tests of a method and of the losses in its file: with golden values, without."""
    source = (ROOT / "ssl_jax" / "objectives" / f"{name}.py").read_text()
    losses = {name, *re.findall(r"ssl_jax\.losses\.(\w+) import", source)}
    files = [ROOT / "tests" / "losses" / f"{loss}_test.py" for loss in sorted(losses)]
    for path in sorted((ROOT / "tests" / "objectives").glob("*_test.py")):
        if re.search(rf"\b{name}\b", path.read_text()) and path.stem != "contract_test":
            files.append(path)
    golden, other = [], []
    for path in filter(Path.exists, files):
        link = f"[{path.stem.removesuffix('_test')}](../../{path.relative_to(ROOT)})"
        (golden if re.search(r"GOLDEN /|torch\.load\(", path.read_text()) else other).append(link)
    return golden, other


def on_digits(seeds: dict) -> str:
    reached = statistics.mean(s["fewshot5_top1"] for s in seeds.values())
    untrained = statistics.mean(s["untrained_fewshot5_top1"] for s in seeds.values())
    return f"{reached:.3f} ({reached - untrained:+.3f}; seeds: {len(seeds)})"


def on_cifar10(found: dict) -> str:
    return f"{found['knn_top1']:.3f} (pixels {found['pixels_knn_top1']:.3f}; {found['net']})"


if __name__ == "__main__":
    PAGE.write_text(page())
