"""DeepCluster-v2 (2006.09882, appendix).

ssl-jax train --config=deepcluster_v2:digits --workdir=W
ssl-jax train --config=deepcluster_v2:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=deepcluster_v2:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """SwAV's views and learning rates."""
    view = {"size": 16, "count": 2, "area": (1.0, 1.0), "recipe": "digits", "strength": 0.4}
    objective = {
        "name": "deepcluster_v2",
        "views": (view,),
        "projector": (256, 128),
        "clusters": 32,
    }
    optim = {"name": "sgd", "lr": 0.1, "weight_decay": 1e-4}
    return common.digits(objective, optim, steps=400, batch_size=128)


def cifar10() -> ConfigDict:
    """Follows lightly's SwAV for CIFAR-10: two crops without blur, 512 clusters per head, Adam."""
    view = {"size": 32, "count": 2, "area": (0.08, 1.0), "recipe": "simclr_cifar"}
    objective = {"name": "deepcluster_v2", "views": (view,), "clusters": 512}
    optim = {"name": "adamw", "lr": 5e-4, "weight_decay": 1e-6}
    return common.cifar10(objective, optim, epochs=200, batch_size=512)


def imagenet() -> ConfigDict:
    """2x224 + 6x96, batch 4096, 800 epochs (scripts/deepclusterv2_800ep_pretrain.sh)."""
    objective = {"name": "deepcluster_v2"}
    optim = {
        "name": "lars",
        "lars_variant": "apex",
        "lr": 0.3,
        "lr_start": 0.3 / 4.8,
        "lr_end": 1e-3,
        "weight_decay": 1e-6,
        "warmup_epochs": 10.0,
        "warmup_inclusive": True,
    }
    return common.imagenet(objective, optim, epochs=800, batch_size=4096)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
