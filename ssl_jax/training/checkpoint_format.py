"""Number of the format of a checkpoint, and the readers of earlier formats.

`manifest.json` holds it as `format`; manifests from before it was written have format 1. In format
1, which every version so far writes, a checkpoint is an Orbax tree (`TrainState`) with metadata
(method, config, data, versions, evaluated, left_out), and a manifest.

A change after which the code of before could not read a checkpoint, or would read it wrongly, gets
a new number and an entry in `UPGRADES`. New keys of a config have defaults and need none.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.plain import is_whole

Metadata = dict[str, Any]
# Entry n - 1 converts the metadata of format n to format n + 1.
UPGRADES: tuple[Callable[[Metadata], Metadata], ...] = ()


def current() -> int:
    """Return the number of the format that is written."""
    return len(UPGRADES) + 1


def number(manifest: Mapping[str, Any], name: str) -> int:
    """Return the format of the checkpoint `name` from its manifest.

    Raises:
      UserError: it is of a newer version.
    """
    value = manifest.get("format", 1)
    if not is_whole(value) or not 1 <= value <= current():
        raise UserError(
            f"{name} has format {value!r:.20}, of a newer version of ssl_jax; this version reads "
            f"formats up to {current()}, so install the newer one"
        )
    return int(value)


def upgrade(metadata: Metadata, format: int) -> Metadata:
    """Return the metadata of a checkpoint of an earlier format in the current one."""
    for convert in UPGRADES[format - 1 :]:
        metadata = convert(metadata)
    return metadata
