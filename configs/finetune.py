"""The config of `ssl-jax finetune`; `run/finetuning.py` sets its arguments.

ssl-jax finetune --workdir=W --data=folder:/labelled --output=DIR
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

CANDIDATES = 4  # checkpoints among which the held-out part chooses


def choose(
    data: Mapping[str, Any],
    view: Mapping[str, Any],
    backbone: Mapping[str, Any],
    init_from: str,
    batch_size: int,
    steps: int,
    labels: int = 0,
) -> ConfigDict:
    """Choose the training on few labels: AdamW with a small rate that decays towards the first
    layers, weight decay, smoothed labels, and an average of all weights, which is evaluated.

    Args:
      data: the section `data`.
      view: the crop and its chain of augmentation.
      backbone: the section `backbone` of what it starts from.
      init_from: what it starts from: a file with a backbone and a classifier.
      batch_size: images per step.
      steps: number of training steps.
      labels: largest number of labels of an image, whose targets are not smoothed; 0 is one each.
    """
    targets = {"labels": labels} if labels else {"label_smoothing": 0.1}
    return ConfigDict(
        {
            "objective": {
                "name": "supervised",
                "view": dict(view),
                **targets,
                "average": 0.99,
            },
            "backbone": dict(backbone),
            "data": dict(data),
            "optim": {
                "name": "adamw",
                "lr": 5e-4,
                "lr_scaling": "none",
                "weight_decay": 0.05,
                "warmup_steps": steps // 10,
                "layer_decay": 0.75,
            },
            "train": {"steps": steps, "batch_size": batch_size, "init_from": init_from},
            "checkpoint": {"every": -(-steps // CANDIDATES), "keep": CANDIDATES},
            "evals": {"every": -1},  # the command measures its candidates itself
        }
    )
