"""Writer of docs/methods/README.md, the table of all methods: `python docs/make_methods.py`.

Paper and family come from the methods' files, links to tests from the files in tests/, numbers from
docs/results.json (`benchmarks/learning.py`) and docs/cifar10.json (edited by hand, each entry with
its command). `tests/docs_test.py` fails if the page differs from what this writes.
"""

import json
import re
import statistics
from pathlib import Path

from ssl_jax.run.catalog import methods

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "methods" / "README.md"
# The page of each family, by the family's name in a method's file.
PAGES = {
    "contrastive": "contrastive.md",
    "siamese": "siamese.md",
    "clustering": "clustering.md",
    "masked": "masked.md",
    "pretext": "pretext.md",
    "multi-modal": "multi_modal.md",
    "translation": "translation.md",
    "baseline": "baseline.md",
}
HEAD = """# All methods

Written by `python docs/make_methods.py`. "Golden" lists the tests that compare with values from the
authors' own code, "other tests" those of properties ([testing](../testing.md)). In addition, every
method passes `tests/objectives/contract_test.py` (loss, gradients and state are equal on one device
and on eight, resuming is bit-exact). 5 labels: accuracy with 5 labels per
class on the embedded data, mean over the seeds, and the gain over the untrained network
([results](../results.md)). CIFAR-10: kNN
accuracy, and that of raw pixels ([measured performance](../performance.md)).

"""


def page() -> str:
    results = json.loads((ROOT / "docs" / "results.json").read_text())
    cifar10 = json.loads((ROOT / "docs" / "cifar10.json").read_text())
    lines = [
        "| method | family | paper | golden | other tests | 5 labels | CIFAR-10 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, method in methods().items():
        family, paper = method.family, method.paper
        golden, other = proofs(name)
        cells = (
            f"[{name}](../../ssl_jax/objectives/{name}.py)",
            in_family(family),
            re.sub(r"\((\d{4}\.\d{4,5})\)", r"([\1](https://arxiv.org/abs/\1))", paper),
            ", ".join(golden) or "no fixture",
            ", ".join(other),
            embedded(results[name]["seeds"]) if name in results else "not run",
            on_cifar10(cifar10[name]) if name in cifar10 else "not run",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return HEAD + "\n".join(lines) + "\n"


def in_family(family: str) -> str:
    """Link the page of a family; one without a page is plain text, none is "none"."""
    return f"[{family}]({PAGES[family]})" if family in PAGES else family or "none"


def proofs(name: str) -> tuple[list[str], list[str]]:
    """Link the tests of a method and of its losses: those with golden values, and the others."""
    source = (ROOT / "ssl_jax" / "objectives" / f"{name}.py").read_text()
    losses = {name, *re.findall(r"ssl_jax\.losses\.(\w+) import", source)} - {"shapes"}
    files = [ROOT / "tests" / "losses" / f"{loss}_test.py" for loss in sorted(losses)]
    for path in sorted((ROOT / "tests" / "objectives").glob("*_test.py")):
        if is_about(name, path.read_text()) and path.stem != "contract_test":
            files.append(path)
    golden, other = [], []
    for path in filter(Path.exists, files):
        link = f"[{path.stem.removesuffix('_test')}](../../{path.relative_to(ROOT)})"
        (
            golden if re.search(r"GOLDEN /|torch\.load\(|= load\(", path.read_text()) else other
        ).append(link)
    return golden, other


def is_about(name: str, test: str) -> bool:
    """Return whether the text of a test's file uses a method: names may be ordinary words."""
    word = rf"\b{name}\b"
    if not re.search(word, test):
        return False
    used = rf"(objectives|losses)(\.| import .*){word}|[\"']{name}[\"':_]|{name}="
    return bool(re.search(word, test.split('"""')[1]) or re.search(used, test))


def embedded(seeds: dict) -> str:
    trained = statistics.mean(s["fewshot5_top1"] for s in seeds.values())
    untrained = statistics.mean(s["untrained_fewshot5_top1"] for s in seeds.values())
    return f"{trained:.3f} ({trained - untrained:+.3f}; seeds: {len(seeds)})"


def on_cifar10(numbers: dict) -> str:
    pixels = numbers["pixels_knn_top1"]
    return f"{numbers['knn_top1']:.3f} (pixels {pixels:.3f}; {numbers['net']})"


if __name__ == "__main__":
    PAGE.write_text(page())
