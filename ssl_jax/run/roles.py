"""Map each leaf of a run's state to its network: the trained one, its average, or neither."""

from collections.abc import Mapping
from typing import Any

import jax

from ssl_jax.core import tree
from ssl_jax.core.tree import Tree
from ssl_jax.objectives.base import Objective
from ssl_jax.weights.networks import REST, STUDENT, TEACHER


def places(objective: Objective, params: Tree, extra: Tree) -> dict[str, tuple[str, str]]:
    """Map each path in the state ("extra/target/projector/linear1/kernel") to its network, or
    "rest", and its path in that network ("projector/linear1/kernel").

    Args:
      params, extra: the state's, or their shapes.
    """
    state = {"params": params, "extra": extra}
    roles = {path: (REST, path) for path in tree.named_leaves(state)}
    roles |= {f"params/{path}": (STUDENT, path) for path in tree.named_leaves(params)}
    stats = extra.get("stats", {})
    roles |= {f"extra/stats/{path}": (STUDENT, path) for path in tree.named_leaves(stats)}
    # The contract's functions select leaves; applied to names, they select the leaves' paths.
    names = tree.map_with_name(lambda path, _: path, state)
    for part in objective.teacher(names["params"], names["extra"]) or ():
        roles |= {place: (TEACHER, path) for path, place in tree.named_leaves(part).items()}
    return roles


def networks(
    objective: Objective, params: Tree, extra: Tree
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the variables by path of "student" and, if there is one, "teacher"; and the rest."""
    leaves = tree.named_leaves({"params": params, "extra": extra})
    variables: dict[str, dict[str, Any]] = {STUDENT: {}, TEACHER: {}, REST: {}}
    for place, (part, path) in places(objective, params, extra).items():
        variables[part][path] = leaves[place]
    rest = variables.pop(REST)
    return {part: own for part, own in variables.items() if own}, rest


def encoder_of(variables: Mapping[str, Mapping[str, Any]], encoder_params: Tree) -> str:
    """Return the name of the network whose backbone the encoder has, by identity."""
    first = jax.tree.leaves(encoder_params)[0]
    for part, leaves in variables.items():
        if any(leaf is first for path, leaf in leaves.items() if path.startswith("backbone/")):
            return part
    return STUDENT
