"""The named mesh, and rules on tree paths that place every array of the train state on it.

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

# Arrays that grow with the data set or the queue are split by rows, because a step reads and writes
# rows.
DEFAULT_RULES: tuple[Rule, ...] = (
    (r"(^|/)(queue|memory|assignments)(/|$)", "rows"),
    (r".*", "fsdp"),
)

ROW_MULTIPLE = 1024


@dataclass(frozen=True)
class MeshConfig:
    """The section `mesh` of a config: devices along each axis; one axis may be -1, which takes all
    remaining devices.

    Attributes:
      replica: copies across slices (slow network), the number of slices or a multiple of it;
        parameters are replicated.
      data: copies within a slice; parameters are replicated.
      fsdp: devices over which the batch and the parameters, optimizer state and teacher are split.
      rules: (path regex, "replicate" | "fsdp" | "rows"); the first match wins, and every leaf must
        be covered.
      fsdp_min_size: arrays of fewer elements stay replicated.
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
    """Make the mesh (replica, data, fsdp) over `devices` (default: all).

    On several slices (TPU), or several hosts without a common fast network (GPU), only the first
    axis goes across them, so only gradients use the slow network.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or do not fit the slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.replica, config.data, config.fsdp]
    shape = "x".join(map(str, sizes))
    if any(s == 0 or s < -1 for s in sizes) or sizes.count(-1) > 1:
        raise UserError(
            f"mesh: invalid shape {shape}; sizes must be positive, at most one may be -1"
        )
    product = int(np.prod([s for s in sizes if s != -1]))
    if -1 in sizes and len(devices) % product == 0:
        sizes[sizes.index(-1)] = len(devices) // product
    if int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"mesh: replica x data x fsdp = {shape} does not fit the {len(devices)} "
            "device(s) here; the product must equal their number, one size may be -1"
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        raise UserError(
            f"mesh.replica: {config.replica} does not fit the {slices} slices of these devices; "
            f"set --config.mesh.replica={slices} or a multiple"
        )
    inside, split = (sizes[0] // slices, *sizes[1:]), {"allow_split_physical_axes": True}
    try:
        if slices == 1:
            grid = mesh_utils.create_device_mesh(inside, devices, **split)
        else:
            grid = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, **split)
    except ValueError as e:
        raise UserError(f"mesh: {shape} does not fit {slices} slice(s): {e}") from None
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def fitting(config: MeshConfig, devices: Sequence[Any]) -> MeshConfig:
    """Return `config` if its mesh fits `devices`; otherwise a config for all of them, whose `fsdp`
    is the greatest common divisor of the requested one and the devices per slice.
    """
    try:
        make_mesh(config, devices)
    except UserError:
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        split = math.gcd(len(devices) // slices, max(config.fsdp, 1))
        return dataclasses.replace(config, replica=slices, data=-1, fsdp=split)
    return config


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split rows over all axes: every device holds an equal part of the global batch."""
    return NamedSharding(mesh, P(AXES))


def local_rows(mesh: Mesh, count: int) -> np.ndarray:
    """Return which of `count` rows lie on this process's devices, ascending: its part of a global
    batch. The mesh need not list a slice's devices in the order of its hosts.

    Raises:
      UserError: `count` is not divisible by the number of devices.
    """
    if count % mesh.size:
        raise UserError(f"a batch of {count} is not divisible by the {mesh.size} devices")
    mine = batch_sharding(mesh).addressable_devices_indices_map((count,))
    return np.unique(np.concatenate([np.arange(count)[rows] for rows in mine.values()]))


def padded_rows(count: int) -> int:
    """Round the rows of an array with one row per example up to a multiple of 1024, so that every
    power of two of devices up to 1024 splits it and a checkpoint fits every mesh.
    """
    return -(-count // ROW_MULTIPLE) * ROW_MULTIPLE


def split_rows(x: jax.Array) -> jax.Array:
    """Split the rows of (B, ...) over all devices. Otherwise every device would hold the whole of a
    reordered array and compute everything that follows from it. Unchanged if there is no such mesh
    in context, or if the rows are not divisible.
    """
    return _split(x, 0)


def split_columns(x: jax.Array) -> jax.Array:
    """Split the columns of (B, R), not its rows, over all devices: scores of a batch against rows
    that are split over them. Unchanged under the conditions of `split_rows`.
    """
    return _split(x, 1)


def gather_weights(weights: tree.Tree) -> tree.Tree:
    """Hold the whole weights of a layer on every device while it uses them, where they are split
    (`fsdp` > 1): they are gathered, and their gradients summed and split again. Otherwise the
    compiler may leave them in place and move the activations of all devices. Unchanged if there is
    no such mesh in context.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if set(mesh.axis_names) != set(AXES) or mesh.shape["fsdp"] == 1:
        return weights
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, P()), weights)


def gather_rows(x: jax.Array) -> jax.Array:
    """Hold all rows of a small (B, ...) on every device, for its products with rows that are split
    over them. Otherwise the TPU compiler passes blocks of x around and multiplies each by itself,
    in products of a few rows only. Unchanged if there is no such mesh in context.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if set(mesh.axis_names) != set(AXES):
        return x
    return jax.lax.with_sharding_constraint(x, P())


def _split(x: jax.Array, axis: int) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    if set(mesh.axis_names) != set(AXES) or x.shape[axis] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, P(*[None] * axis, AXES))


def batches_of(mesh: Mesh, size: int) -> NamedSharding:
    """Return the sharding of batches (n, `size`, ...): split over the devices, or replicated if not
    divisible, so that a batch does not depend on their number.
    """
    return NamedSharding(mesh, P(None, AXES) if size % mesh.size == 0 else P())


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def tree_shardings(abstract: tree.Tree, config: MeshConfig, mesh: Mesh) -> tree.Tree:
    """Return a `NamedSharding` for each leaf of `abstract` (shapes from `jax.eval_shape`) by the
    config's rules.

    Raises:
      UserError: a leaf without a rule, a rule that matches no leaf, or an unknown kind of rule.
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
            f"mesh.rules: expected 'replicate', 'fsdp' or 'rows' for {name!r}, got {kind!r}"
        )

    return tree.map_with_name(place, abstract, kinds)


def _fsdp_spec(shape: tuple[int, ...], parts: int, min_size: int) -> P:
    """Split the largest divisible dimension, of equal ones the last."""
    dims = [i for i, n in enumerate(shape) if n % parts == 0 and n >= parts]
    if parts == 1 or not dims or int(np.prod(shape)) < min_size:
        return P()
    split = max(dims, key=lambda i: (shape[i], i))
    return P(*(("fsdp" if i == split else None) for i in range(split + 1)))
