"""The config of `ssl-jax train --data=...` without --config; `run/auto.py` sets its arguments.

ssl-jax train --data=folder:/images --workdir=W
"""

from ml_collections import ConfigDict


def choose(
    data: str, size: int, batch_size: int, steps: int, accelerated: bool, many: bool
) -> ConfigDict:
    """Choose SimCLR, which also learns from small batches and cannot collapse.

    Args:
      data: the training images.
      size: side of the crops in pixels.
      batch_size: images per step.
      steps: number of training steps.
      accelerated: a GPU or TPU is available.
      many: there are enough images for a deep network.
    """
    backbone = {"name": "resnet_small", "width": 32}
    if accelerated:
        backbone = {"name": "resnet", "depth": 50 if many else 18, "dtype": "bfloat16"}
        backbone["stem"] = "imagenet" if size > 64 else "cifar"
    recipe = "simclr" if size > 64 else "simclr_cifar"
    return ConfigDict(
        {
            "objective": {
                "name": "simclr",
                "view": {"size": size, "count": 2, "area": (0.2, 1.0), "recipe": recipe},
                "projector": (512, 128),
                "temperature": 0.2,
            },
            "backbone": backbone,
            "data": {"train": data},
            "optim": {
                "name": "adamw",
                "lr": 1e-3,
                "weight_decay": 1e-4,
                "warmup_steps": steps // 10,
            },
            "train": {
                "steps": steps,
                "batch_size": batch_size,
                "log_every": 50 if accelerated else 10,
            },
            "checkpoint": {"every": max(steps // 10, 50)},
        }
    )
