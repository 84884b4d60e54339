"""Options of XLA's compiler for the train step, in one table by the kind of chip."""

from jax.sharding import Mesh

# By jax's `device_kind`, for meshes with split weights (`fsdp` > 1). What was tried and changed
# nothing is in docs/performance.md.
SPLIT_WEIGHTS = {
    # Weights are gathered by all-gathers, not by sums of padded parts, which send twice the bytes.
    "TPU v5 lite": {"xla_tpu_prefer_async_allgather_to_allreduce": "true"},
}


def options(mesh: Mesh) -> dict[str, str]:
    """Return the options for a step over `mesh`, empty for most. They change how the devices
    exchange data, not what is computed.
    """
    if mesh.shape.get("fsdp", 1) == 1:
        return {}
    return dict(SPLIT_WEIGHTS.get(mesh.devices.flat[0].device_kind, {}))
