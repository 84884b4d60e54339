"""One named mesh, and rules on tree paths that say how every array of the train state lies on it.

Objectives are written for the whole global batch and never name an axis; the compiler inserts the
collectives that these shardings imply.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core import tree
from ssl_jax.core.errors import UserError
from ssl_jax.core.ranges import OrAll, Whole

AXES = ("replica", "data", "fsdp")
Rule = tuple[str, str]

# Everything that grows with the data set or the queue lies by row: its rows are what a step reads
# and writes.
DEFAULT_RULES: tuple[Rule, ...] = (
    (r"(^|/)(queue|memory|assignments)(/|$)", "rows"),
    (r".*", "fsdp"),
)

ROW_MULTIPLE = 1024


@dataclass(frozen=True)
class MeshConfig:
    """The section `mesh` of a config: devices along each axis; one axis may be -1, "all that are
    left".

    Attributes:
      replica: copies across slices (slow network), as many as there are slices or a multiple;
        parameters are replicated.
      data: copies within a slice; parameters are replicated.
      fsdp: the batch and the parameters, optimizer state and teacher are split.
      rules: (path regex, "replicate" | "fsdp" | "rows"), the first match wins, every leaf must be
        covered.
      fsdp_min_size: arrays of fewer elements are not worth splitting and stay replicated.
    """

    replica: OrAll = 1
    data: OrAll = -1
    fsdp: OrAll = 1
    rules: tuple[tuple[str, str], ...] = DEFAULT_RULES
    fsdp_min_size: Whole = 65536

    def unused(self) -> Mapping[str, str]:
        """See `core.config.check_used`."""
        return {"fsdp_min_size": "mesh.fsdp is 1: nothing is split"} if self.fsdp == 1 else {}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh (replica, data, fsdp) over `devices` (default: all).

    On several slices (TPU), or several hosts without a common fast network (GPU), the first axis
    alone goes across them: only what it needs, gradients, takes the slow network.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or do not fit the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.replica, config.data, config.fsdp]
    asked = "x".join(map(str, sizes))
    if any(s == 0 or s < -1 for s in sizes) or sizes.count(-1) > 1:
        raise UserError(f"mesh: {asked} is no mesh; give positive sizes, at most one of them -1")
    known = int(np.prod([s for s in sizes if s != -1]))
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"mesh: replica x data x fsdp = {asked} does not fit the {len(devices)} "
            "device(s) here; the product must be equal, one of them may be -1"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        raise UserError(
            f"mesh.replica: {config.replica} does not fit the {slices} slices of these devices; "
            f"give --config.mesh.replica={slices} or a multiple"
        )
    inside, split = (sizes[0] // slices, *sizes[1:]), {"allow_split_physical_axes": True}
    try:
        if slices == 1:
            grid = mesh_utils.create_device_mesh(inside, devices, **split)
        else:
            grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, **split)
    except ValueError as e:
        raise UserError(f"mesh: {asked} does not fit {slices} slice(s): {e}") from None
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def fitting(config: MeshConfig, devices: Sequence[Any]) -> MeshConfig:
    """`config` if its mesh fits `devices`, else one for all of them that splits the state over as
    many as it can of those that `config` asks for.
    """
    try:
        make_mesh(config, devices)
    except UserError:
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        split = math.gcd(len(devices) // slices, max(config.fsdp, 1))
        return dataclasses.replace(config, replica=slices, data=-1, fsdp=split)
    return config


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over all axes: every device holds an equal part of the global batch."""
    return NamedSharding(mesh, P(AXES))


def local_rows(mesh: Mesh, count: int) -> np.ndarray:
    """Which of `count` rows lie on this process's devices, ascending: the part of a global batch
    that it has to make. A slice's devices need not lie in the mesh in the order of its hosts.

    Raises:
      UserError: `count` does not divide by the devices.
    """
    if count % mesh.size:
        raise UserError(f"a batch of {count} does not divide by the {mesh.size} devices")
    mine = batch_sharding(mesh).addressable_devices_indices_map((count,))
    return np.unique(np.concatenate([np.arange(count)[rows] for rows in mine.values()]))


def padded_rows(count: int) -> int:
    """Rows of an array with one row an example: the next multiple of 1024, so that any power of two
    of devices up to that splits it and a checkpoint fits every mesh.
    """
    return -(-count // ROW_MULTIPLE) * ROW_MULTIPLE


def split_rows(x: jax.Array) -> jax.Array:
    """(B, ...) with its rows split over all devices: what was gathered in another order is else
    held, and all that follows computed, by every device whole. Left alone without such a mesh in
    context, or where they do not divide.
    """
    return _split(x, 0)


def split_columns(x: jax.Array) -> jax.Array:
    """(B, R) with its columns, not its rows, split over all devices: scores of a batch against rows
    that lie there. Left alone as in `split_rows`.
    """
    return _split(x, 1)


def _split(x: jax.Array, axis: int) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if set(mesh.axis_names) != set(AXES) or x.shape[axis] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, P(*[None] * axis, AXES))


def batches_of(mesh: Mesh, size: int) -> NamedSharding:
    """For some batches (n, `size`, ...): each split over the devices, or whole on all of them where
    they do not divide it, so that a batch does not depend on how many they are.
    """
    return NamedSharding(mesh, P(None, AXES) if size % mesh.size == 0 else P())


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def tree_shardings(abstract: tree.Tree, config: MeshConfig, mesh: Mesh) -> tree.Tree:
    """A `NamedSharding` for each leaf of `abstract` (shapes from `jax.eval_shape`) by the config's
    rules.

    Raises:
      UserError: a leaf that no rule covers, a rule that matches none, or an unknown kind of rule.
    """
    kinds = tree.match(config.rules, abstract, "mesh.rules")
    own = [pattern for pattern, kind in config.rules if (pattern, kind) not in DEFAULT_RULES]
    tree.check_used(own, abstract, "mesh.rules", "array of the state")

    def place(name: str, leaf: Any, kind: str) -> NamedSharding:
        if kind == "replicate":
            return replicated(mesh)
        if kind == "rows":
            rows_divide = leaf.ndim > 0 and leaf.shape[0] % mesh.size == 0
            return batch_sharding(mesh) if rows_divide else replicated(mesh)
        if kind == "fsdp":
            return NamedSharding(
                mesh, _fsdp_spec(leaf.shape, mesh.shape["fsdp"], config.fsdp_min_size)
            )
        raise UserError(
            f"mesh.rules: {kind!r} for {name!r} is not one of 'replicate', 'fsdp', 'rows'"
        )

    return tree.map_with_name(place, abstract, kinds)


def _fsdp_spec(shape: tuple[int, ...], parts: int, min_size: int) -> P:
    """Split the largest dimension that divides evenly; the last one wins a tie."""
    dims = [i for i, n in enumerate(shape) if n % parts == 0 and n >= parts]
    if parts == 1 or not dims or int(np.prod(shape)) < min_size:
        return P()
    split = max(dims, key=lambda i: (shape[i], i))
    return P(*(("fsdp" if i == split else None) for i in range(split + 1)))
