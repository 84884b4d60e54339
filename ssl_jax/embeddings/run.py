"""Features of a data set, written to a file: on all devices and hosts, with bounded memory,
resumable.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
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
from ssl_jax.core.versions import versions
from ssl_jax.data.pipeline import eval_arrays, local_part
from ssl_jax.embeddings import formats, shards
from ssl_jax.embeddings.encoder import ImageEncoder, read
from ssl_jax.embeddings.job import ImagesJob
from ssl_jax.embeddings.shards import Parts, Rows

PART_BYTES, PART_ROWS = 2**26, 4096  # limits of a part, unless a single batch is larger
LATE = 2  # batches queued on the devices while the result of an earlier one is awaited
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job(ImagesJob):
    """One file of features. The encoder is read at its `probe`; the suffix of the output's name
    determines the format.
    """

    @cached_property
    def part(self) -> int:
        """Number of examples of a part: whole batches."""
        row = 4 * int(np.prod(self.encoder.feature_shape))
        return max(min(PART_BYTES // row, PART_ROWS) // self.batch, 1) * self.batch

    @cached_property
    def count(self) -> int:
        """Number of parts."""
        return -(-len(self.source) // self.part)

    def rows_of(self, number: int) -> range:
        """Return the examples of a part."""
        return range(number * self.part, min((number + 1) * self.part, len(self.source)))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything that the bytes of the file depend on."""
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
            "versions": versions("ssl-jax", "jax"),
        }


def embed(job: Job, progress: Progress = lambda done, computed: None) -> dict[str, Any]:
    """Write the features of a data set to `job.output`; parts of an interrupted run are reused.

    Every process of a run calls this function; each computes and writes its own rows, and the first
    one assembles the file. The bytes of the file do not depend on how often the run was killed.
    Corrupt images have no row; they are listed in `left_out`. A file of an earlier state of the
    same data is replaced. At most three parts and `LATE` + 2 batches are in memory.

    Args:
      progress: called with the number of finished examples, and of those computed by this call.

    Returns:
      The metadata in the file: `Job.settings`, `origin`, `rows`, `left_out`, `class_names`.

    Raises:
      UserError: the output cannot be written or holds something else; too many corrupt images; no
        examples in the data.
    """
    formats.of(job.output)
    if not len(job.source):
        raise UserError(f"{job.source.name} holds no images")
    if _everywhere(job.output.exists()):
        metadata = formats.read_metadata(job.output)
        if metadata is None or not shards.outdated(metadata, job.settings, job.source.matches):
            expected = shards.as_before(metadata, job.settings, job.source.matches)
            shards.check_same(metadata, expected, str(job.output), "remove it")
            if distributed.primary():
                shards.remove(job.output)
            return metadata or {}
        logging.warning("%s: %s has changed since; rewriting it", job.output, job.source.name)
    with shards.opened(job.output, job.settings) as folder:
        try:
            _compute(job, folder, progress)
            distributed.barrier(f"all parts of {job.output}")
            if distributed.primary():
                _assemble(job, folder)
            distributed.barrier(f"{job.output}")
        except OSError as e:
            raise UserError(
                f"cannot write {job.output}: {e.strerror or e}; finished parts are kept in "
                f"{folder.folder}"
            ) from None
    if distributed.primary():
        shards.remove(job.output)
    shards.await_shared(lambda: formats.read_metadata(job.output) is not None, job.output)
    return formats.read_metadata(job.output) or {}


def _compute(job: Job, folder: Parts, progress: Progress) -> None:
    """Compute the missing parts; each process writes its own rows."""
    primary = distributed.primary()
    complete = _everywhere(np.array([primary and folder.keep(n) for n in range(job.count)]))
    missing = [number for number in range(job.count) if not complete[number]]
    finished = len(job.source) - sum(len(job.rows_of(number)) for number in missing)
    progress(finished, 0)
    if not missing:
        return
    examples = np.concatenate([np.array(job.rows_of(number), np.int32) for number in missing])
    local = sharding.local_rows(job.mesh, job.batch)
    batches = eval_arrays(
        job.source,
        job.encoder.view.size,
        rows=local_part(examples, job.batch, local),
        channels=job.encoder.channels,
        batch=len(local),
        threads=job.threads,
        max_bad_fraction=job.max_bad_fraction,
    )
    computed, pending = 0, results(job.encoder, batches, job.mesh)
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for number in missing:
            rows: list[Rows] = []
            for _ in range(0, len(job.rows_of(number)), job.batch):
                rows.append(next(pending))
                computed = min(computed + job.batch, len(examples))
                distributed.tick()
                progress(finished + computed, computed)
            if written is not None:
                written.result()
            whole = Rows(*(np.concatenate(column) for column in zip(*rows, strict=True)))
            written = writer.submit(folder.write, number, whole)
        assert written is not None
        written.result()


def results(
    encoder: ImageEncoder, batches: Iterable[tuple[np.ndarray, np.ndarray]], mesh: Mesh
) -> Iterator[Rows]:
    """Yield this process's rows of each batch, in order, while the devices compute the next ones.

    Args:
      batches: this process's rows of (crops (B, H, W, C) uint8, index (B,)), B a multiple of the
        number of devices; rows of index -1 are padding, and are dropped.
    """
    encoder, placed = encoder.bare, sharding.batch_sharding(mesh)
    queue: collections.deque[tuple[jax.Array, np.ndarray]] = collections.deque()
    for crops, index in batches:
        with jax.set_mesh(mesh):
            features = _read(encoder, to_global(crops, placed))
        for shard in features.addressable_shards:
            shard.data.copy_to_host_async()
        queue.append((features, index))
        if len(queue) > LATE:
            yield _fetch(*queue.popleft())
    for entry in queue:
        yield _fetch(*entry)


@jax.jit
def _read(encoder: ImageEncoder, crops: jax.Array) -> jax.Array:
    return sharding.split_rows(read(encoder, crops))


def _fetch(features: jax.Array, index: np.ndarray) -> Rows:
    """Copy this process's rows from the devices, without padding."""
    blocks = {shard.index[0].start or 0: shard.data for shard in features.addressable_shards}
    rows = np.concatenate([np.asarray(blocks[start]) for start in sorted(blocks)])
    return Rows(index[index >= 0], rows[index >= 0])


def _assemble(job: Job, folder: Parts) -> None:
    for number in range(job.count):
        shards.await_shared(functools.partial(folder.listed, number), folder.folder)
    indices = [folder.examples(number) for number in range(job.count)]
    present = np.zeros(len(job.source), bool)
    present[np.concatenate(indices)] = True
    absent = np.flatnonzero(~present)
    metadata = job.settings | {
        "origin": job.encoder.origin,
        "rows": int(present.sum()),
        "left_out": [job.source.describe(int(i)) for i in absent],
        "class_names": list(job.source.class_names),
    }

    def features() -> Iterator[np.ndarray]:
        for number in range(job.count):
            distributed.tick()
            yield folder.read(number).features

    table = formats.Table(job.source, indices, features, job.encoder.feature_shape, metadata)
    temporary = folder.folder / f"whole{job.output.suffix}"
    formats.of(job.output).write(temporary, table)
    beside = temporary.with_name(f"{temporary.name}.json")
    if beside.exists():
        beside.replace(job.output.with_name(f"{job.output.name}.json"))
    temporary.replace(job.output)


def _everywhere(value: Any) -> Any:
    """Broadcast the value of process 0 to all processes."""
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(np.asarray(value))
