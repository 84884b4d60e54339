"""The views of published recipes, as data: size, area, count and chain of each view.

The sizes are ImageNet's. `dataclasses.replace` fits a view to other data.
"""

from typing import Any

from ssl_jax.core.errors import UserError, suggest
from ssl_jax.core.inputs import View

_CUBIC: dict[str, Any] = {"interpolation": "bicubic"}
_BYOL: dict[str, Any] = {"area": (0.08, 1.0), "crop": "one_draw", **_CUBIC}


def _dino(global_area: tuple[float, float], local_area: tuple[float, float], local: int):
    return (
        View(224, area=global_area, recipe="dino_1", **_CUBIC),
        View(224, area=global_area, recipe="dino_2", **_CUBIC),
        View(96, count=local, area=local_area, recipe="dino_local", **_CUBIC),
    )


VIEWS: dict[str, tuple[View, ...]] = {
    "simclr": (View(224, count=2, area=(0.08, 1.0), recipe="simclr", **_CUBIC),),
    "byol": (View(224, recipe="byol_1", **_BYOL), View(224, recipe="byol_2", **_BYOL)),
    "barlow_twins": (
        View(224, area=(0.08, 1.0), recipe="dino_1", **_CUBIC),
        View(224, area=(0.08, 1.0), recipe="dino_2", **_CUBIC),
    ),
    "vicreg": (
        View(224, area=(0.08, 1.0), recipe="dino_1", **_CUBIC),
        View(224, area=(0.08, 1.0), recipe="dino_2", **_CUBIC),
    ),
    "instdisc": (View(224, count=1, area=(0.2, 1.0), recipe="instdisc"),),
    "sela": (View(224, count=1, area=(0.08, 1.0), recipe="instdisc"),),
    "deepcluster": (View(224, count=1, area=(0.08, 1.0), recipe="mae"),),
    "moco_v1": (View(224, count=2, area=(0.2, 1.0), recipe="moco_v1"),),
    "moco_v2": (View(224, count=2, area=(0.2, 1.0), recipe="moco_v2"),),
    "simsiam": (View(224, count=2, area=(0.2, 1.0), recipe="moco_v2"),),
    # Crops of the ResNet; the ViT's area is (0.08, 1).
    "moco_v3": (
        View(224, area=(0.2, 1.0), recipe="dino_1"),
        View(224, area=(0.2, 1.0), recipe="dino_2"),
    ),
    "dino": _dino((0.4, 1.0), (0.05, 0.4), 8),
    "dino_resnet": _dino((0.14, 1.0), (0.05, 0.14), 8),
    "ibot": _dino((0.25, 1.0), (0.05, 0.25), 10),
    "swav": (
        View(224, count=2, area=(0.14, 1.0), recipe="swav"),
        View(96, count=6, area=(0.05, 0.14), recipe="swav"),
    ),
    "swav_two": (View(224, count=2, area=(0.08, 1.0), recipe="swav"),),
    "self_classifier": (
        View(224, area=(0.4, 1.0), recipe="self_classifier_1", **_CUBIC),
        View(224, area=(0.4, 1.0), recipe="self_classifier_2", **_CUBIC),
        View(96, count=6, area=(0.05, 0.4), recipe="dino_local", **_CUBIC),
    ),
    "pic": (
        View(160, count=1, area=(0.14, 1.0), recipe="simclr"),
        View(96, count=3, area=(0.08, 0.14), recipe="simclr"),
    ),
    # Jigsaw's and context prediction's: nearly the whole image, as 255 of 256 to 292 pixels.
    "patches": (View(255, count=1, area=(0.7, 1.0), recipe="patches"),),
    "mae": (View(224, count=1, area=(0.2, 1.0), recipe="mae", **_CUBIC),),
    "simmim": (View(192, count=1, area=(0.67, 1.0), recipe="mae"),),
    "beit": (View(224, count=1, area=(0.08, 1.0), recipe="beit", **_CUBIC),),
    "feature_distillation": (View(224, count=1, area=(0.08, 1.0), recipe="mae", **_CUBIC),),
    "ijepa": (View(224, count=1, area=(0.3, 1.0), recipe="normalize"),),
}


def views(name: str) -> tuple[View, ...]:
    """Return the view groups of the published recipe `name`.

    Raises:
      UserError: an unknown name; the message names the nearest.
    """
    if name not in VIEWS:
        raise UserError(f"unknown views {name!r}; {suggest(name, VIEWS)}")
    return VIEWS[name]
