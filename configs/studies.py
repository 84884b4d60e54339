"""Lists of runs, for `ssl-jax study --study=studies:NAME` and `python -m launch.X --study=...`.

A study is {name of the run: {"config": METHOD:RECIPE, KEY OF THE CONFIG: value, ...}}.
"""

from itertools import product

from configs import common


def get_config(study: str = "data_and_steps") -> dict:
    return common.pick(
        study,
        data_and_steps=data_and_steps,
        methods_and_widths=methods_and_widths,
        methods_and_depths=methods_and_depths,
    )


def data_and_steps() -> dict:
    """Data fraction and training length: SimCLR on a tenth, a third and all of the digits."""
    return {
        f"data{share}-steps{steps}": {
            "config": "simclr:digits",
            "data.fraction": share,
            "train.steps": steps,
            "train.batch_size": 128,
        }
        for share, steps in product((0.1, 0.3, 1.0), (100, 300, 1000))
    }


def methods_and_widths() -> dict:
    """Three methods, three widths of the small ResNet, on digits."""
    return {
        f"{method}-width{width}": {"config": f"{method}:digits", "backbone.width": width}
        for method, width in product(("simclr", "byol", "vicreg"), (8, 16, 32))
    }


def methods_and_depths() -> dict:
    """The ImageNet recipes of four methods with ResNets of three depths, 100 epochs. Set the data
    with --data=folder:/imagenet/train.
    """
    return {
        f"{method}-resnet{depth}": {
            "config": f"{method}:imagenet",
            "backbone.depth": depth,
            "train.epochs": 100,
        }
        for method, depth in product(("simclr", "byol", "swav", "barlow_twins"), (18, 50, 101))
    }
