"""Measure protocols on small data in one of several processes, for `processes_test`.

python -m tests.evals.measuring FOLDER NUM_PROCESSES PROCESS_ID COORDINATOR
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from ssl_jax.core import distributed, sharding
from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import View
from ssl_jax.core.placement import place
from ssl_jax.evals import protocols
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.checks import NotMeasurable
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols import detection
from ssl_jax.evals.titles import titles_of
from ssl_jax.nets.backbones import resnet_small
from ssl_jax.objectives.base import Encoder, Heads, Probe
from tests.evals.detection_stub import CRASH, ERROR
from tests.evals.multi_label_test import source as multi_label
from tests.evals.setting_files import squares
from tests.evals.settings_test import BASE, ELSEWHERE, encoder

# Settings beyond those of `settings_test.BASE`.
MORE = {
    "linear_grid": {"paper": "beit", "rates": (1.0,), "epochs": 30},
    "clustering": {"superclasses": "{superclasses}"},
    "copy_detection": {"whitening": "{copies2}"},
    "instance_retrieval": {"whitening": "{copies2}"},
    "corruptions": {"data": "{corrupted}"},
}
SINGLE = {
    name: BASE.get(name, {}) | MORE.get(name, {})
    for name in protocols.known()
    if name not in ELSEWHERE
}
MULTI = {"linear": {"preset": "lbfgs", "holdout": 0.2}, "svm": {}, "knn": {"k": 5}}
DETECTION = {"train": "coco:{boxes}", "sizes": (48,), "longest": 64}


def filled(value, files):
    if isinstance(value, tuple):
        return tuple(filled(v, files) for v in value)
    return value.format(**files) if isinstance(value, str) else value


def measure(folder: Path) -> dict[str, float]:
    """Measure all protocols over all devices of all processes."""
    files = json.loads((folder / "files.json").read_text())
    mesh = sharding.make_mesh(sharding.MeshConfig())
    numbers = {}
    with jax.set_mesh(mesh):
        how = {"view": View(16, recipe="flip"), "channels": 3, "batch_size": 16, "mesh": mesh}
        how["streams"] = {"target": squares(30, 2)}
        images = Images.of(squares(60, 0), squares(41, 1), 1000, 1000, **how)
        other = lambda seed: (encoder(int(seed)), how["view"])  # noqa: E731
        one_head = Heads({}, lambda _, pooled: [pooled[:, :4]])
        network = dataclasses.replace(encoder(), classifier=one_head)
        subject = Subject(network, images, Probe(pool="pooled"), network=other)
        for name, settings in SINGLE.items():
            numbers |= of_protocol(name, subject, files, settings, name)
        numbers |= of_protocol("patches", subject, files, {}, "labels")
        numbers |= of_detection(images, files)
        tables = (np.random.default_rng(i).integers(0, 2, (n, 3)) for i, n in enumerate((40, 21)))
        how = {"view": View(8), "channels": 1, "batch_size": 8, "mesh": mesh}
        images = Images.of(*map(multi_label, tables), 1000, 1000, **how)
        for name, settings in MULTI.items():
            subject = Subject(None, images, Probe())
            numbers |= of_protocol(name, subject, files, settings, "multi-label")
    return numbers


def of_protocol(name, subject, files, settings, prefix):
    chosen = {key: filled(value, files) for key, value in settings.items()}
    protocol = dataclasses.replace(EvalsConfig().protocol(name), **chosen)
    ((_, numbers),) = measured([protocol], subject)
    assert numbers and np.isfinite(list(numbers.values())).all(), (name, numbers)
    names = {key.partition("/")[2] for key in numbers}
    assert titles_of(names, protocol.titles).keys() == names, (name, names)
    return {f"{prefix} {key}": value for key, value in numbers.items()}


def of_detection(images, files):
    """Measure a network whose weights are split over the devices, by a stub of the worker: with
    numbers, with an error of the data, and with a worker that fails.
    """
    net = resnet_small.make(width=4, channels=3)
    params, stats = jax.device_get(jax.jit(net.init)(jax.random.key(0)))
    split = sharding.batch_sharding(images.mesh)
    alike = sharding.replicated(images.mesh)
    params = jax.tree.map(
        lambda x: place(x, alike if x.shape[0] % images.mesh.size else split), params
    )
    assert any(not x.is_fully_replicated for x in jax.tree.leaves(params)) or images.mesh.size == 1
    subject = Subject(Encoder(params, place(stats, alike), net), images, Probe())
    detection.PACKAGES, detection.WORKER, detection.POLL = (), "tests.evals.detection_stub", 0.1
    numbers = of_protocol("detection", subject, files, DETECTION, "stub")
    for seed, kind in ((ERROR, NotMeasurable), (CRASH, UserError)):
        try:
            of_protocol("detection", subject, files, DETECTION | {"seed": seed}, "stub")
        except UserError as error:
            numbers[f"{type(error).__name__}: {error}"] = float(type(error) is kind)
    return numbers


def main(folder, count, process, coordinator):
    flags = distributed.ProcessFlags()
    if int(count) > 1:
        address = {"coordinator": coordinator, "num_processes": int(count)}
        flags = distributed.ProcessFlags(**address, process_id=int(process))
    with distributed.session(flags):
        numbers = measure(Path(folder))
        path = Path(folder) / f"numbers-{count}-{process}.json"
        path.write_text(json.dumps(numbers | {"devices": jax.device_count()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
