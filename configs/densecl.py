"""DenseCL (2011.09157).

ssl-jax train --config=densecl:digits --workdir=W
ssl-jax train --config=densecl:coco --workdir=W --data=folder:/coco/train2017
ssl-jax train --config=densecl:imagenet --workdir=W --data=folder:/imagenet/train
"""

from ml_collections import ConfigDict

from configs import common, moco_v2


def get_config(recipe: str = "imagenet") -> ConfigDict:
    return RECIPES.build(recipe)


def digits() -> ConfigDict:
    """MoCo v2's small recipe with a stem that leaves a map of 16 places, and for its cost fewer
    steps.
    """
    config = moco_v2.digits()
    config.backbone.stem = "cifar"
    config.train.steps = 250
    config.optim.warmup_steps = 25
    config.objective.name = "densecl"
    config.objective.dense_projector = (256, 128)
    return config


def cifar10() -> ConfigDict:
    """MoCo v2's recipe for CIFAR-10; there is no published one."""
    config = moco_v2.cifar10()
    config.objective.name = "densecl"
    config.objective.dense_projector = (512, 128)
    return config


def imagenet() -> ConfigDict:
    """ResNet-50, batch 256, 200 epochs (densecl_imagenet_200ep.py of the release); batch norm as on
    8 GPUs.
    """
    config = moco_v2.imagenet()
    config.objective.name = "densecl"
    config.train.epochs = 200
    return config


def coco() -> ConfigDict:
    """The paper's other pre-training set: 800 epochs of COCO's images with a learning rate of 0.3
    (section 4.1 of the paper).
    """
    config = imagenet()
    config.optim.lr = 0.3
    config.train.epochs = 800
    return config


RECIPES = common.Recipes(small=digits, paper=imagenet, others=(cifar10, coco))
