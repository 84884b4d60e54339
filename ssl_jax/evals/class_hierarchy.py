"""Superclasses from a hierarchy of classes: the nodes of a level, and BREEDS' data sets."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError

ROOT = "n00001740"  # WordNet's "entity"


class Recipe(NamedTuple):
    """Superclasses: the nodes of a level, below `ancestor` if it is set, with at least `subclasses`
    classes each, of which so many are drawn; 0 takes all nodes and all of their classes.
    """

    level: int
    subclasses: int = 0
    ancestor: str = ""


# 2008.04859, the released breeds_helpers.py
BREEDS = {
    "entity13": Recipe(3, 20),
    "entity30": Recipe(4, 8),
    "living17": Recipe(5, 4, "n00004258"),
    "nonliving26": Recipe(5, 4, "n00021939"),
}
SEED = 2  # of BREEDS' draws


class Hierarchy:
    """A graph of classes without cycles: a node is an ancestor of the classes below it.

    Args:
      edges: pairs of a node and one directly below it.
      classes: names of the data set's classes; nodes above none of them are left out.
      where: start of the messages.

    Raises:
      UserError: a cycle, no class among the nodes, or no single root.
    """

    def __init__(
        self, edges: Sequence[tuple[str, str]], classes: Collection[str], where: str
    ) -> None:
        self._where, self._classes = where, set(classes)
        parents: dict[str, list[str]] = {}
        for above, below in dict.fromkeys(edges):
            parents.setdefault(below, []).append(above)
        if not self._classes & {node for edge in edges for node in edge}:
            raise UserError(
                f"{where}: no node is a class of the data set; expected classes like "
                f"{', '.join(list(classes)[:3])}"
            )
        self._below: dict[str, list[str]] = {}
        waiting, reached = sorted(self._classes & set(parents)), set[str]()
        while waiting:
            node = waiting.pop()
            if node in reached:
                continue
            reached.add(node)
            for above in parents.get(node, ()):
                self._below.setdefault(above, []).append(node)
                waiting.append(above)
        roots = sorted(node for node in self._below if node not in parents)
        if ROOT in self._below:
            roots = [ROOT]
        if len(roots) != 1:
            listed = ", ".join(roots[:5]) or "none, as the edges form a cycle"
            raise UserError(f"{where}: expected one root, got {listed}")
        self._levels = self._depths(roots[0])

    def _depths(self, root: str) -> Mapping[str, int]:
        """Return the length of the longest path from the root to each node."""
        depth, open_ = {root: 0}, dict[str, int]()
        for below in self._below.values():
            for node in below:
                open_[node] = open_.get(node, 0) + 1
        # A node that the root does not reach never closes its children: walk from all sources.
        ready = [node for node in self._below if node not in open_]
        done = 0
        while ready:
            node = ready.pop()
            done += 1
            for child in self._below.get(node, ()):
                if node in depth:
                    depth[child] = max(depth.get(child, 0), depth[node] + 1)
                open_[child] -= 1
                if not open_[child]:
                    ready.append(child)
        if done < len(open_.keys() | self._below.keys()):
            raise UserError(f"{self._where}: the edges form a cycle")
        return depth

    def classes_below(self, node: str) -> list[str]:
        """Return the classes of the data set below a node, or the node if it is one, sorted; those
        below another class do not count.
        """
        collected, waiting, reached = set[str](), [node], set[str]()
        while waiting:
            current = waiting.pop()
            if current in self._classes:
                collected.add(current)
                if current != node:
                    continue
            below = set(self._below.get(current, ())) - reached
            reached |= below
            waiting += below
        return sorted(collected)

    def superclasses(self, recipe: Recipe) -> dict[str, list[str]]:
        """Return superclass -> its classes, sorted by the superclass.

        Raises:
          UserError: no node at this level, or no such ancestor.
        """
        nodes = sorted(node for node, depth in self._levels.items() if depth == recipe.level)
        if recipe.ancestor:
            if recipe.ancestor not in self._levels:
                raise UserError(f"{self._where}: no node {recipe.ancestor!r} above any class")
            inside = self._descendants(recipe.ancestor)
            nodes = [node for node in nodes if node in inside]
        below = {node: self.classes_below(node) for node in nodes}
        below = {node: names for node, names in below.items() if len(names) >= recipe.subclasses}
        if len(below) < 2:
            deepest = max(self._levels.values())
            raise UserError(
                f"{self._where}: {len(below)} superclasses at level {recipe.level} with at least "
                f"{recipe.subclasses} classes; expected two or more, and a level from 1 to "
                f"{deepest}"
            )
        if not recipe.subclasses:
            return below
        rng = np.random.RandomState(SEED)  # one after another, as in the authors' code
        return {
            node: [names[i] for i in rng.choice(len(names), recipe.subclasses, replace=False)]
            for node, names in below.items()
        }

    def _descendants(self, node: str) -> set[str]:
        reached, waiting = {node}, [node]
        while waiting:
            fresh = set(self._below.get(waiting.pop(), ())) - reached
            reached |= fresh
            waiting += fresh
        return reached
