"""Features of a data set to a file: on all devices and hosts, in bounded memory, resumable."""

import collections
import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ssl_jax.augment.recipes import plain
from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.placement import to_global
from ssl_jax.data.pipeline import eval_arrays, local_part
from ssl_jax.data.sources import Source
from ssl_jax.embed import formats
from ssl_jax.embed import shards as parts
from ssl_jax.embed.encoder import Encoder, read
from ssl_jax.embed.shards import Parts, Rows

PART_BYTES, PART_ROWS = 2**26, 4096  # of a part, at the most, unless one batch is more
LATE = 2  # batches that the devices have before them when the result of one is waited for
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One file of features.

    Attributes:
      encoder: read where its `probe` says; its weights lie whole on each device of `mesh`.
      source: the data set.
      output: the file; its name's end is the format.
      batch_size: images that all devices take at once; rounded up to a multiple of them.
      threads: that decode; 0 is one a core.
      max_bad_fraction: more broken images than this share end it.
    """

    encoder: Encoder
    source: Source
    output: Path
    mesh: Mesh
    batch_size: int = 256
    threads: int = 0
    max_bad_fraction: float = 0.01

    @cached_property
    def batch(self) -> int:
        return self.batch_size + -self.batch_size % self.mesh.size

    @cached_property
    def part(self) -> int:
        """Examples of a part: whole batches."""
        row = 4 * int(np.prod(self.encoder.feature_shape))
        return max(min(PART_BYTES // row, PART_ROWS) // self.batch, 1) * self.batch

    @cached_property
    def count(self) -> int:
        """Of parts."""
        return -(-len(self.source) // self.part)

    def rows_of(self, number: int) -> range:
        """The examples of a part."""
        return range(number * self.part, min((number + 1) * self.part, len(self.source)))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the bytes of the file depend on."""
        encoder = self.encoder
        return {
            "data": self.source.name,
            "fingerprint": self.source.fingerprint(),
            "examples": len(self.source),
            "weights": encoder.digest(),
            "layer": encoder.layers[encoder.probe.stage],
            "pool": encoder.probe.pool,
            "shape": list(encoder.feature_shape),
            "size": encoder.view.size,
            "recipe": plain(encoder.view.recipe),
            "batch": self.batch,
            "part": self.part,
            "device": self.mesh.devices.flat[0].device_kind,
            **({"range": list(self.source.value_range)} if self.source.value_range else {}),
            "versions": {n: importlib.metadata.version(n) for n in ("ssl-jax", "jax")},
        }


def embed(job: Job, progress: Progress = lambda done, new: None) -> dict[str, Any]:
    """Write the features of a data set to `job.output`; what is there of an earlier run is kept.

    Every process of a run calls it; each computes and writes its rows, the first one puts them
    together. The file is the same to the last byte however often the run was killed. An image that
    is broken has no row; it is listed in `left_out`. A file of the same data before they changed is
    replaced. At most three parts and `LATE` + 2 batches are
    in memory.

    Args:
      progress: called with the examples done, and those of them done by this call.

    Returns:
      What the file says of itself: `Job.settings`, `origin`, `rows`, `left_out`, `class_names`.

    Raises:
      UserError: the output cannot be written or holds something else; too many broken images; data
        without an example.
    """
    formats.of(job.output)
    if not len(job.source):
        raise UserError(f"{job.source.name} holds no image")
    if _everywhere(job.output.exists()):
        found = formats.read_about(job.output)
        if found is None or not parts.outdated(found, job.settings, job.source.matches):
            wanted = parts.as_before(found, job.settings, job.source.matches)
            parts.check_same(found, wanted, str(job.output), "remove it")
            if distributed.primary():
                parts.remove(job.output)
            return found or {}
        logging.warning("%s: %s has changed since; made anew", job.output, job.source.name)
    with parts.opened(job.output, job.settings) as folder:
        try:
            _compute(job, folder, progress)
            distributed.barrier(f"all parts of {job.output}")
            if distributed.primary():
                _assemble(job, folder)
            distributed.barrier(f"{job.output}")
        except OSError as e:
            raise UserError(
                f"cannot write {job.output}: {e.strerror or e}; what is done is kept in "
                f"{folder.folder}"
            ) from None
    if distributed.primary():
        parts.remove(job.output)
    parts.await_shared(lambda: formats.read_about(job.output) is not None, job.output)
    return formats.read_about(job.output) or {}


def _compute(job: Job, folder: Parts, progress: Progress) -> None:
    """Make the parts that are missing; each process writes its own rows."""
    mine = distributed.primary()
    there = _everywhere(np.array([mine and folder.keep(n) for n in range(job.count)]))
    missing = [number for number in range(job.count) if not there[number]]
    kept = len(job.source) - sum(len(job.rows_of(number)) for number in missing)
    progress(kept, 0)
    if not missing:
        return
    wanted = np.concatenate([np.array(job.rows_of(number), np.int32) for number in missing])
    local = sharding.local_rows(job.mesh, job.batch)
    batches = eval_arrays(
        job.source,
        job.encoder.view.size,
        rows=local_part(wanted, job.batch, local),
        channels=job.encoder.channels,
        batch=len(local),
        threads=job.threads,
        max_bad_fraction=job.max_bad_fraction,
    )
    new, found = 0, results(job.encoder, batches, job.mesh)
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for number in missing:
            rows: list[Rows] = []
            for _ in range(0, len(job.rows_of(number)), job.batch):
                rows.append(next(found))
                new = min(new + job.batch, len(wanted))
                distributed.tick()
                progress(kept + new, new)
            if written is not None:
                written.result()
            whole = Rows(*(np.concatenate(column) for column in zip(*rows, strict=True)))
            written = writer.submit(folder.write, number, whole)
        assert written is not None
        written.result()


def results(
    encoder: Encoder, batches: Iterable[tuple[np.ndarray, np.ndarray]], mesh: Mesh
) -> Iterator[Rows]:
    """This process's rows of each batch, in order, while the devices are at the next ones.

    Args:
      batches: this process's rows of (crops (B, H, W, C) uint8, index (B,)), B a multiple of the
        devices; rows of index -1 are filling, and are dropped.
    """
    encoder, placed = encoder.bare, sharding.batch_sharding(mesh)
    under_way: collections.deque[tuple[jax.Array, np.ndarray]] = collections.deque()
    for crops, index in batches:
        with jax.set_mesh(mesh):
            features = _read(encoder, to_global(crops, placed))
        for shard in features.addressable_shards:
            shard.data.copy_to_host_async()
        under_way.append((features, index))
        if len(under_way) > LATE:
            yield _fetched(*under_way.popleft())
    for one in under_way:
        yield _fetched(*one)


@jax.jit
def _read(encoder: Encoder, crops: jax.Array) -> jax.Array:
    return sharding.split_rows(read(encoder, crops))


def _fetched(features: jax.Array, index: np.ndarray) -> Rows:
    """Those of the rows of this process that are examples."""
    shards = {shard.index[0].start or 0: shard.data for shard in features.addressable_shards}
    rows = np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
    return Rows(index[index >= 0], rows[index >= 0])


def _assemble(job: Job, folder: Parts) -> None:
    for number in range(job.count):
        parts.await_shared(functools.partial(folder.listed, number), folder.folder)
    indices = [folder.examples(number) for number in range(job.count)]
    present = np.zeros(len(job.source), bool)
    present[np.concatenate(indices)] = True
    broken = np.flatnonzero(~present)
    about = job.settings | {
        "origin": job.encoder.origin,
        "rows": int(present.sum()),
        "left_out": [job.source.describe(int(i)) for i in broken],
        "class_names": list(job.source.class_names),
    }

    def features() -> Iterator[np.ndarray]:
        for number in range(job.count):
            distributed.tick()
            yield folder.read(number).features

    table = formats.Table(job.source, indices, features, job.encoder.feature_shape, about)
    temporary = folder.folder / f"whole{job.output.suffix}"
    formats.of(job.output).write(temporary, table)
    beside = temporary.with_name(f"{temporary.name}.json")
    if beside.exists():
        beside.replace(job.output.with_name(f"{job.output.name}.json"))
    temporary.replace(job.output)


def _everywhere(value: Any) -> Any:
    """What process 0 found."""
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(np.asarray(value))
