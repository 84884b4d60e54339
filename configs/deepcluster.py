"""DeepCluster (1807.05520).

ssl-jax train --config=deepcluster:digits --workdir=W
ssl-jax train --config=deepcluster:cifar10 --workdir=W --data=npz:cifar10.npz
ssl-jax train --config=deepcluster:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """An epoch has five steps here, too few for a new classifier to learn anything (and then the
    backbone learns noise): new clusters every 40 steps, and a higher learning rate for the
    classifier.
    """
    objective = {
        "name": "deepcluster",
        "view": {"size": 16, "area": (1.0, 1.0), "recipe": "digits"},
        "clusters": 50,
        "whitened": 32,
        "epochs": 8.0,
    }
    optim = {
        "name": "adamw",
        "lr": 2e-3,
        "weight_decay": 1e-4,
        "lr_rules": (("^classifier/", 10.0), (".*", 1.0)),
    }
    return common.digits(objective, optim, steps=400, batch_size=256)


def cifar10() -> ConfigDict:
    """The learning rates of ImageNet with the same number of images per cluster: 128."""
    objective = {
        "name": "deepcluster",
        "view": {"size": 32, "area": (0.2, 1.0), "recipe": "instdisc"},
        "clusters": 400,
        "whitened": 128,
    }
    optim = common.CLUSTER_SGD | {"weight_decay": 5e-4}
    return common.cifar10(objective, optim, epochs=200, batch_size=256)


def imagenet() -> ConfigDict:
    """The released main.py (k = 10,000, batch 256, 200 epochs, a constant rate), with a ResNet-50
    instead of AlexNet.
    """
    objective = {"name": "deepcluster", "clusters": 10000, "whitened": 256}
    return common.imagenet(objective, common.CLUSTER_SGD, epochs=200, batch_size=256)


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10,))
