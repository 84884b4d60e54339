"""Pytrees whose leaves are named by path ("backbone/stage1/conv/kernel"), and rules over names."""

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ssl_jax.core.errors import UserError

Array = jax.Array
Tree = Any
T = TypeVar("T")


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Tree) -> dict[str, Any]:
    """Return path -> leaf, in the order of `jax.tree.leaves`."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def map_with_name(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Map like `jax.tree.map`, passing the leaf's path too: `fn(name, leaf, *others)`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: fn(_name(path), *leaves), tree, *rest
    )


def match(rules: Sequence[tuple[str, T]], tree: Tree, what: str = "rules") -> Tree:
    """Return for each leaf the value of the first rule whose regex matches its path (`re.search`).

    Raises:
      UserError: a leaf that no rule covers, or an invalid regex.
    """
    try:
        compiled = [(re.compile(pattern), value) for pattern, value in rules]
    except re.error as e:
        raise UserError(f"{what}: {e.pattern!r} is not a regular expression ({e})") from None

    def first(name: str, _: Any) -> T:
        for pattern, value in compiled:
            if pattern.search(name):
                return value
        raise UserError(f"{what}: no rule covers {name!r}; end the list with a rule for '.*'")

    return map_with_name(first, tree)


def check_used(patterns: Collection[str], tree: Tree, what: str, leaf: str = "parameter") -> None:
    """Check that each regex matches the path of some leaf.

    Raises:
      UserError: a regex matches no path; the message names the nearest paths.
    """
    names = list(named_leaves(tree))
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise UserError(f"{what}: {pattern!r} matches no {leaf}; {_nearest(pattern, names)}")


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """Suggest paths, or parts of paths, that a mistyped pattern may mean."""
    plain = re.sub(r"\\[dwsbDWSB]|\(\?[:!=<]*|[\\^$.*+?(){}|\[\]]", "", pattern).strip("/")
    words = [name.split("/") for name in names]
    runs = {
        "/".join(parts[i:j])
        for parts in words
        for i in range(len(parts))
        for j in range(i + 1, len(parts) + 1)
    }
    near = difflib.get_close_matches(plain, sorted(runs), n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(map(repr, near)) + "?"
    return "there are " + ", ".join(names[:3]) + ", ..."


def ema(average: Tree, current: Tree, momentum: Array | float) -> Tree:
    """Update an exponential moving average: `momentum * average + (1 - momentum) * current`."""
    with jax.named_scope("ema"):
        return jax.tree.map(
            lambda a, c: a + (1 - momentum) * (c.astype(a.dtype) - a), average, current
        )


def cast_like(tree: Tree, like: Tree) -> Tree:
    """Cast each leaf to the dtype of the same leaf of another tree."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), tree, like)


def global_norm(tree: Tree) -> Array:
    """Compute the Euclidean norm over all leaves, accumulated in at least float32."""
    leaves = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum((jnp.sum(jnp.square(x)) for x in leaves), start=jnp.zeros((), jnp.float32)))


def all_finite(tree: Tree) -> Array:
    """Return true if no floating-point leaf holds a NaN or an infinity."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return (
        jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))
        if floats
        else jnp.array(True)
    )


def count(tree: Tree) -> int:
    """Count the elements of all leaves (arrays or abstract shapes)."""
    return sum(int(x.size) for x in jax.tree.leaves(tree))
