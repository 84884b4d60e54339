"""Writer of the table in docs/tasks/which_method.md: `python docs/make_choice.py`.

The advice is ours, the numbers come from docs/results.json (`benchmarks/learning.py`).
`tests/docs_test.py` fails if the page differs from what this writes.
"""

import json
import statistics
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "tasks" / "which_method.md"
START, END = "<!-- make_choice.py writes this table -->\n", "<!-- end of the table -->\n"
# Situation, methods as METHOD or METHOD:RECIPE, reason.
CHOICES = (
    (
        "a first run; photographs; a batch of 256 or more",
        ("simclr", "vicreg"),
        "two views, no further state, few settings",
    ),
    (
        "only small batches fit",
        ("moco_v2", "barlow_twins", "byol"),
        "negatives come from a queue, or there are none",
    ),
    (
        "you want groups or classes without labels",
        ("deepcluster_v2", "swav"),
        "their features cluster best",
    ),
    (
        "a vision transformer on two views",
        ("moco_v3:digits_vit", "dino:digits_vit"),
        "made for it; attention maps come for free",
    ),
    (
        "a large vision transformer that you will fine-tune",
        ("mae", "simmim"),
        "cheap steps, no augmentation to choose; as frozen features weaker",
    ),
    (
        "colours or crops carry the meaning (medical, spectra)",
        ("mae", "rotnet", "jigsaw"),
        "their task needs no colour jitter; rotnet needs images with an upright",
    ),
    (
        "features for every patch: segmentation, matching",
        ("densecl", "pixpro", "ibot", "dinov2"),
        "losses on places of the map",
    ),
    ("images with captions", ("clip", "siglip"), "text is the second view; classes by name"),
    ("video", ("vjepa", "motion_segmentation"), "clips, or what moves in them"),
    ("few labels and many images at once", ("s4l", "simclr_v2"), "labels are part of the training"),
)
HEAD = """| your situation | method | why | 5 labels | over untrained | k-means | kNN | CPU s |
|---|---|---|---|---|---|---|---|
"""


def table() -> str:
    results = json.loads((DOCS / "results.json").read_text())
    lines = []
    for situation, names, why in CHOICES:
        for i, name in enumerate(names):
            lead = (situation, f"`{name}`", why) if i == 0 else ("", f"`{name}`", "")
            cells = (*lead, *(numbers(results[name]["seeds"]) if name in results else ("not run",)))
            lines.append("| " + " | ".join([*cells, *[""] * (8 - len(cells))]) + " |\n")
    return HEAD + "".join(lines)


def numbers(seeds: dict) -> tuple[str, ...]:
    """Return the means over the seeds of the columns."""

    def mean(key: str) -> float:
        return statistics.mean(seed[key] for seed in seeds.values())

    gain = mean("fewshot5_top1") - mean("untrained_fewshot5_top1")
    scores = (f"{mean(key):.3f}" for key in ("kmeans_acc", "knn_top1"))
    return f"{mean('fewshot5_top1'):.3f}", f"{gain:+.3f}", *scores, f"{mean('cpu_s'):.0f}"


def page() -> str:
    """Return the page with the current table."""
    head, _, rest = PAGE.read_text().partition(START)
    return head + START + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
