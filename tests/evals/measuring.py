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
from ssl_jax.core.inputs import View
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.evaluator import EvalsConfig
from ssl_jax.evals.images import Images
from ssl_jax.objectives.base import Probe
from tests.evals.multi_label_test import source as multi_label
from tests.evals.setting_files import squares
from tests.evals.settings_test import BASE, encoder

# The protocols to measure, each with settings beyond those of `settings_test.BASE`.
SINGLE = {
    "linear": {},
    "linear_grid": {"paper": "beit", "rates": (1.0,), "epochs": 30},
    "clustering": {"superclasses": "{superclasses}"},
    "image_retrieval": {},
    "few_shot_episodes": {},
    "copy_detection": {"whitening": "{copies2}"},
    "instance_retrieval": {"whitening": "{copies2}"},
    "box_patches": {},
    "depth": {},
    "normals": {},
    "segmentation_heads": {},
    "shifts": {},
    "corruptions": {"data": "{corrupted}"},
    "backgrounds": {},
    "cue_conflict": {},
}
MULTI = {"linear": {"preset": "lbfgs", "holdout": 0.2}, "svm": {}, "knn": {"k": 5}}


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
        images = Images.of(squares(60, 0), squares(41, 1), 1000, 1000, **how)
        subject = Subject(encoder(), images, Probe(pool="pooled"))
        for name, settings in SINGLE.items():
            numbers |= of_protocol(name, subject, files, BASE.get(name, {}) | settings)
        tables = (np.random.default_rng(i).integers(0, 2, (n, 3)) for i, n in enumerate((40, 21)))
        how = {"view": View(8), "channels": 1, "batch_size": 8, "mesh": mesh}
        images = Images.of(*map(multi_label, tables), 1000, 1000, **how)
        for name, settings in MULTI.items():
            subject = Subject(None, images, Probe())
            for key, value in of_protocol(name, subject, files, settings).items():
                numbers[f"multi-label {key}"] = value
    return numbers


def of_protocol(name, subject, files, settings):
    chosen = {key: filled(value, files) for key, value in settings.items()}
    protocol = dataclasses.replace(EvalsConfig().protocol(name), **chosen)
    ((_, numbers),) = measured([protocol], subject)
    assert numbers and np.isfinite(list(numbers.values())).all(), numbers
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
