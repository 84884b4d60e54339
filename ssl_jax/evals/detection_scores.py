"""Average precision of detections by pycocotools (extra `detection`)."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Numbers = dict[str, float]
NAMES = ("ap", "ap50", "ap75")  # the first three of COCO's summary


def average_precisions(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    kind: Literal["bbox", "segm"] = "bbox",
    classes: Sequence[str] = (),
) -> Numbers:
    """Return COCO's AP (mean over IoU 0.5 to 0.95), AP50 and AP75 in [0, 1], the AP50 of boxes
    whatever their class (`agnostic_ap50`), and AP and AP50 of each of `classes`.

    Args:
      truth: the content of a file of annotations in COCO's format.
      detections: `image_id`, `category_id`, `score`, and `bbox` [left, top, width, height] or
        `segmentation` (run lengths).

    A number is NaN if no object counts for it.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kinds = {c["name"]: c["id"] for c in truth["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO()
        objects.dataset = dict(truth)
        objects.createIndex()
        if not detections:
            counted = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
            numbers = dict.fromkeys((*NAMES, "agnostic_ap50"), 0.0 if counted else np.nan)
            for name in classes:
                value = 0.0 if kinds[name] in counted else np.nan
                numbers |= {f"ap_{name}": value, f"ap50_{name}": value}
            return numbers
        results = objects.loadRes([dict(d) for d in detections])

        def scored(categories: Sequence[int] | None = None, agnostic: bool = False) -> list[float]:
            scoring = COCOeval(objects, results, kind)
            scoring.params.useCats = int(not agnostic)
            if categories is not None:
                scoring.params.catIds = list(categories)
            scoring.evaluate()
            scoring.accumulate()
            scoring.summarize()
            return [float(x) if x >= 0 else float("nan") for x in scoring.stats[:3]]

        numbers = dict(zip(NAMES, scored(), strict=True))
        numbers["agnostic_ap50"] = scored(agnostic=True)[1]
        for name in classes:
            whole, half, _ = scored([kinds[name]])
            numbers |= {f"ap_{name}": whole, f"ap50_{name}": half}
    return numbers
