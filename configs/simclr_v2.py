"""SimCLR v2 (2006.10029): pretraining. `ssl-jax study --study=studies:simclr_v2` has all three
steps.

ssl-jax train --config=simclr_v2:digits --workdir=W
ssl-jax study --study=studies:simclr_v2_digits --workdir=S
ssl-jax train --config=simclr_v2:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """SimCLR's recipe, whose first layer of the head is the network's."""
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.8}
    objective = {"name": "simclr_v2", "view": view, "projector": (128, 128), "temperature": 0.2}
    config = common.digits(objective, {"name": "adamw", "lr": 2e-3}, steps=500, batch_size=256)
    config.backbone.neck = (128,)
    return config


def imagenet() -> ConfigDict:
    """ResNet-152, three times as wide, with selective kernels: 800 epochs, batch 4096, LARS with
    0.1 sqrt(batch), a warmup of 5 % (section 3 and the release). The 795 M parameters, their
    momentum and gradients take 9.5 GB and are split over all chips; use 256 chips of 16 GiB.
    """
    config = imagenet_resnet50()
    config.mesh = {"data": 1, "fsdp": -1}
    config.backbone.update({"depth": 152, "width": 3, "neck": (6144,)})
    config.objective.projector = (6144, 128)
    return config


def imagenet_resnet50() -> ConfigDict:
    """The same with a ResNet-50 with selective kernels (35 M parameters)."""
    optim = {
        "name": "lars",
        "lars_variant": "simclr",
        "lr": 0.1,
        "lr_scaling": "sqrt",
        "weight_decay": 1e-4,
        "warmup_epochs": 40.0,
    }
    objective = {"name": "simclr_v2"}
    config = common.imagenet(objective, optim, epochs=800, batch_size=4096)
    config.backbone.update({"sk_ratio": 0.0625, "neck": (2048,)})
    return config


def imagenet_memory() -> ConfigDict:
    """ResNet-152 3x with the memory of section 2.1: 65,536 keys of a moving average."""
    config = imagenet()
    config.objective.queue_size = 65536
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(imagenet_resnet50, imagenet_memory))
