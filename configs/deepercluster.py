"""DeeperCluster (1905.01278).

ssl-jax train --config=deepercluster:digits --workdir=W
ssl-jax train --config=deepercluster:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=deepercluster:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common

RATES = (("^(super_classifier|classifiers)/", 10.0), (".*", 1.0))


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """Clusters of deepcluster:digits; no rotations in the augmentation: they are the question."""
    objective = {
        "name": "deepercluster",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits_upright"},
        "super_clusters": 2,
        "clusters": 50,
        "whitened": 32,
        "epochs": 8.0,
    }
    optim = {"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "lr_rules": RATES}
    return common.digits(objective, optim, steps=400, batch_size=256)


def cifar10() -> ConfigDict:
    """Rates and images per cluster of deepcluster:cifar10."""
    objective = {
        "name": "deepercluster",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "rotnet"},
        "clusters": 400,
        "whitened": 128,
    }
    optim = common.CLUSTER_SGD | {"weight_decay": 5e-4}
    return common.cifar10(objective, optim, epochs=200, batch_size=256)


def imagenet() -> ConfigDict:
    """The paper's rates and schedule (batch 3072, 100 epochs, 0.1, constant), with a ResNet-50 in
    the place of a VGG-16 with Sobel filters, and 10,000 clusters for ImageNet's 1.28 M images: the
    320,000 are for the 96 M of YFCC100M.
    """
    objective = {"name": "deepercluster", "clusters": 10000}
    optim = common.CLUSTER_SGD | {"lr": 0.1, "lr_scaling": "none"}
    return common.imagenet(objective, optim, epochs=100, batch_size=3072)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
