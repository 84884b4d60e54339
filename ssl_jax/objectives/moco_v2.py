"""MoCo v2: improved baselines with momentum contrastive learning (2003.04297)."""

from dataclasses import dataclass

from ssl_jax.core.inputs import TwoCrops
from ssl_jax.core.ranges import Count, Positive
from ssl_jax.objectives.base import View
from ssl_jax.objectives.moco_v1 import MoCoV1


@dataclass(frozen=True)
class MoCoV2(MoCoV1):
    """MoCo with SimCLR's improvements: a head with a hidden layer, blur, a warmer softmax.

    Queue, key encoder and loss are those of `moco_v1`.

    Attributes:
      view: as in `moco_v1`, with stronger augmentation and blur.
      projector: hidden and output width, ReLU between them and no batch norm.
      temperature: as in `moco_v1`.
    """

    view: TwoCrops = View(224, count=2, area=(0.2, 1.0), recipe="moco_v2")
    projector: tuple[Count, ...] = (2048, 128)
    temperature: Positive = 0.2


make = MoCoV2.make
