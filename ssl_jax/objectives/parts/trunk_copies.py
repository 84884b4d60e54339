"""Parameters and state of several methods, the tasks, that train copies of one trunk.

All together have the layout of one method, whose backbone is the copy of one task, the reader:

    params: {"backbone": the reader's copy, "copies": {TASK: its copy}, TASK: its heads}
    extra: {"stats": {"backbone": those of the reader's copy}, TASK: all else}

If a task reads a weighted sum of the trunk's units (`nets.lasso`), the weights "alpha" are among
its heads.
"""

from typing import Any

import jax

Tree = Any


def select(params: Tree, extra: Tree, task: str, reader: str) -> tuple[Tree, Tree]:
    """Return the (params, extra) of a task, as its method has them alone."""
    trunk = params["backbone"] if task == reader else params["copies"][task]
    heads = dict(params[task])
    backbone = {"trunk": trunk, "alpha": heads.pop("alpha")} if "alpha" in heads else trunk
    own = dict(extra[task])
    if task == reader:
        own["stats"] = dict(own["stats"], **extra["stats"])
    return dict(heads, backbone=backbone), own


def store(
    params: Tree, extra: Tree, task: str, reader: str, own_params: Tree, own_extra: Tree
) -> None:
    """Put the (params, extra) of a task into those of all: the inverse of `select`."""
    heads = {k: v for k, v in own_params.items() if k != "backbone"}
    trunk = own_params["backbone"]
    if trunk.keys() == {"trunk", "alpha"}:
        heads["alpha"], trunk = trunk["alpha"], trunk["trunk"]
    if task == reader:
        params["backbone"] = trunk
        stats = {k: v for k, v in own_extra["stats"].items() if k != "backbone"}
        extra["stats"] = {"backbone": own_extra["stats"]["backbone"]}
        own_extra = dict(own_extra, stats=stats)
    else:
        params["copies"][task] = trunk
    params[task], extra[task] = heads, own_extra


def join(params: Tree, before: Tree) -> Tree:
    """Return params in which the sum of the updates of all copies has become the update of each.

    Args:
      before: the trunk before the updates, when all copies were equal.
    """
    copies = (params["backbone"], *params["copies"].values())
    trunk = jax.tree.map(lambda x, *after: x + sum(y - x for y in after), before, *copies)
    return dict(params, backbone=trunk, copies=dict.fromkeys(params["copies"], trunk))
