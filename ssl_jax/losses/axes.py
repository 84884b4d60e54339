"""A decorator that lets a loss, written for the whole batch as one array, run on any mesh.

JAX makes the axes of a mesh Explicit by default: the sharding of each result must then be
determined, and that of `z @ z.T` for a batch split by rows is ambiguous. The decorator leaves it to
the compiler, as on Auto axes.
"""

import functools
from collections.abc import Callable
from types import EllipsisType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

F = TypeVar("F", bound=Callable[..., Any])


def any_axes(leading: int | EllipsisType = 0) -> Callable[[F], F]:
    """Decorate a loss so that it computes on Explicit axes of a mesh what it computes on Auto axes.

    The mesh is that of the context (`jax.set_mesh`), else that of the arrays. Without an Explicit
    axis the function runs unchanged.

    Args:
      leading: number of leading dimensions of the result that are sharded as those of the first
        argument; the others are replicated. `...` means all of them.
    """

    def decorate(loss: F) -> F:
        @functools.wraps(loss)
        def on_any_axes(*args: Any, **kwargs: Any) -> Any:
            leaves, structure = jax.tree.flatten((args, kwargs))
            traced = tuple(isinstance(leaf, _TRACED) for leaf in leaves)
            arrays = [leaf for leaf, is_traced in zip(leaves, traced, strict=True) if is_traced]
            mesh = _mesh(arrays)
            if AxisType.Explicit not in mesh.axis_types:
                return loss(*args, **kwargs)
            static = tuple(None if t else leaf for leaf, t in zip(leaves, traced, strict=True))
            return _placed(loss, leading, structure, static, traced, mesh, arrays)

        return on_any_axes  # type: ignore[return-value]

    return decorate


_TRACED = (jax.Array, np.ndarray, np.generic, float)


# Compiled: without a mesh in context, only a compiled function accepts arrays on several devices.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _placed(
    loss: Callable[..., Any],
    leading: int | EllipsisType,
    structure: Any,
    static: tuple[Any, ...],
    traced: tuple[bool, ...],
    mesh: Any,
    arrays: list[Any],
) -> Any:
    def call(*arrays: Any) -> Any:
        each = iter(arrays)
        leaves = [next(each) if t else s for s, t in zip(static, traced, strict=True)]
        args, kwargs = structure.unflatten(leaves)
        return loss(*args, **kwargs)

    def with_result(sharding: Any) -> Callable[..., Any]:
        pairs = zip(mesh.axis_names, mesh.axis_types, strict=True)
        explicit = tuple(name for name, kind in pairs if kind == AxisType.Explicit)
        return jax.sharding.auto_axes(call, axes=explicit, out_sharding=sharding)

    count = None if leading is ... else leading
    first = jax.typeof(arrays[0]).sharding.spec  # one entry per dimension
    shapes = jax.eval_shape(with_result(NamedSharding(mesh, P())), *arrays)

    def like_first(x: Any) -> NamedSharding:
        pairs = zip(x.shape[:count], arrays[0].shape, first, strict=False)
        return NamedSharding(mesh, P(*(axes if size == own else None for size, own, axes in pairs)))

    return with_result(jax.tree.map(like_first, shapes))(*arrays)


def _mesh(arrays: list[Any]) -> Any:
    context = jax.sharding.get_abstract_mesh()
    if not context.empty:
        return context
    meshes = (jax.typeof(x).sharding.mesh for x in arrays)
    return next((mesh for mesh in meshes if not mesh.empty), context)
