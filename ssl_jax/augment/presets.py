"""The views of published recipes, as data: sizes, areas, counts, and the chain of each.

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
        View(96, local, local_area, "dino_local", **_CUBIC),
    )


VIEWS: dict[str, tuple[View, ...]] = {
    "simclr": (View(224, 2, (0.08, 1.0), "simclr", **_CUBIC),),
    "byol": (View(224, recipe="byol_1", **_BYOL), View(224, recipe="byol_2", **_BYOL)),
    "barlow_twins": (
        View(224, area=(0.08, 1.0), recipe="dino_1", **_CUBIC),
        View(224, area=(0.08, 1.0), recipe="dino_2", **_CUBIC),
    ),
    "vicreg": (
        View(224, area=(0.08, 1.0), recipe="dino_1", **_CUBIC),
        View(224, area=(0.08, 1.0), recipe="dino_2", **_CUBIC),
    ),
    "instdisc": (View(224, 1, (0.2, 1.0), "instdisc"),),
    "sela": (View(224, 1, (0.08, 1.0), "instdisc"),),
    "deepcluster": (View(224, 1, (0.08, 1.0), "mae"),),
    "moco_v1": (View(224, 2, (0.2, 1.0), "moco_v1"),),
    "moco_v2": (View(224, 2, (0.2, 1.0), "moco_v2"),),
    "simsiam": (View(224, 2, (0.2, 1.0), "moco_v2"),),
    # The ResNet's crops; the ViT's are (0.08, 1).
    "moco_v3": (
        View(224, area=(0.2, 1.0), recipe="dino_1"),
        View(224, area=(0.2, 1.0), recipe="dino_2"),
    ),
    "dino": _dino((0.4, 1.0), (0.05, 0.4), 8),
    "dino_resnet": _dino((0.14, 1.0), (0.05, 0.14), 8),
    "ibot": _dino((0.25, 1.0), (0.05, 0.25), 10),
    "swav": (View(224, 2, (0.14, 1.0), "swav"), View(96, 6, (0.05, 0.14), "swav")),
    "swav_two": (View(224, 2, (0.08, 1.0), "swav"),),
    "self_classifier": (
        View(224, area=(0.4, 1.0), recipe="self_classifier_1", **_CUBIC),
        View(224, area=(0.4, 1.0), recipe="self_classifier_2", **_CUBIC),
        View(96, 6, (0.05, 0.4), "dino_local", **_CUBIC),
    ),
    "pic": (View(160, 1, (0.14, 1.0), "simclr"), View(96, 3, (0.08, 0.14), "simclr")),
    # Jigsaw's and context prediction's: nearly the whole image, as 255 of 256 to 292 pixels.
    "patches": (View(255, 1, (0.7, 1.0), "patches"),),
    "mae": (View(224, 1, (0.2, 1.0), "mae", **_CUBIC),),
    "simmim": (View(192, 1, (0.67, 1.0), "mae"),),
    "beit": (View(224, 1, (0.08, 1.0), "beit", **_CUBIC),),
    "ijepa": (View(224, 1, (0.3, 1.0), "normalize"),),
}


def views(name: str) -> tuple[View, ...]:
    """The view groups of this published recipe.

    Raises:
      UserError: there is none; the message names the nearest.
    """
    if name not in VIEWS:
        raise UserError(f"unknown views {name!r}; {suggest(name, VIEWS)}")
    return VIEWS[name]
