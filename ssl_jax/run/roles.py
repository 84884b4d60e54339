"""Which leaf of a run's state belongs to which of its networks: the trained one, its average, or
neither.
"""

from collections.abc import Mapping
from typing import Any

import jax

from ssl_jax.core import tree
from ssl_jax.core.tree import Tree
from ssl_jax.objectives.base import Objective
from ssl_jax.weights.networks import REST, STUDENT, TEACHER


def places(objective: Objective, params: Tree, extra: Tree) -> dict[str, tuple[str, str]]:
    """Path in the state ("extra/target/projector/linear1/kernel") -> its network, or "rest", and
    its path therein ("projector/linear1/kernel").

    Args:
      params, extra: the state's, or their shapes.
    """
    state = {"params": params, "extra": extra}
    found = {path: (REST, path) for path in tree.named_leaves(state)}
    found |= {f"params/{path}": (STUDENT, path) for path in tree.named_leaves(params)}
    stats = extra.get("stats", {})
    found |= {f"extra/stats/{path}": (STUDENT, path) for path in tree.named_leaves(stats)}
    # The contract's functions select; given names in the place of leaves they tell where these lie.
    names = tree.map_with_name(lambda path, _: path, state)
    for part in objective.teacher(names["params"], names["extra"]) or ():
        found |= {place: (TEACHER, path) for path, place in tree.named_leaves(part).items()}
    return found


def networks(
    objective: Objective, params: Tree, extra: Tree
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The variables of "student" and, if there is one, "teacher", by path; and the rest."""
    leaves = tree.named_leaves({"params": params, "extra": extra})
    found: dict[str, dict[str, Any]] = {STUDENT: {}, TEACHER: {}, REST: {}}
    for place, (part, path) in places(objective, params, extra).items():
        found[part][path] = leaves[place]
    rest = found.pop(REST)
    return {part: variables for part, variables in found.items() if variables}, rest


def encoder_of(found: Mapping[str, Mapping[str, Any]], encoder_params: Tree) -> str:
    """Which of the networks the encoder's backbone is of, by identity."""
    first = jax.tree.leaves(encoder_params)[0]
    for part, variables in found.items():
        if any(leaf is first for path, leaf in variables.items() if path.startswith("backbone/")):
            return part
    return STUDENT
