"""Runs of older versions can be resumed: their configs are valid and their states have its form.

`old_runs.json` was written by the code of commit de168b2: config.json of a tiny run per method and
backbone (`common` holds what most of them share), and digests of the paths, shapes and dtypes of
its state's arrays. It is never written again; a test that fails means that old runs are lost.

`old_run_format1.zip` is the folder of a run that the code of that commit trained for 2 of 4 steps,
with a checkpoint of format 1, from before formats had a number (docs/checkpoints.md).
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax.core.files import write_json
from ssl_jax.run.experiment import Experiment
from ssl_jax.training import checkpoint_format, manifest
from ssl_jax.training.checkpoint import Checkpoints
from ssl_jax.training.metrics import read_metrics
from ssl_jax.training.workdir import check_resumable

OLD: dict[str, Any] = json.loads((Path(__file__).parent / "old_runs.json").read_text())


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Build the mappings of dotted keys."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return tree


def digest(part: Any) -> str:
    lines = sorted(
        f"{jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.shape} {leaf.dtype}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(part)
    )
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


class OldRunsTest(parameterized.TestCase):
    @parameterized.named_parameters((f"_{name}", name) for name in OLD["runs"])
    def test_resumes(self, name):
        run = OLD["runs"][name]
        config = nested(OLD["common"] | run["config"])
        folder = Path(self.create_tempdir().full_path)
        write_json(folder / "config.json", config)
        made = Experiment.from_config({k: v for k, v in config.items() if k != "spec"}, folder)
        check_resumable(config, made.resolved(), "the old run", made.defaults())
        state = made.abstract_state
        digests = {part: digest(getattr(state, part)) for part in ("params", "extra", "opt_state")}
        self.assertEqual(digests, run["state"])

    def unpacked(self) -> Path:
        folder = Path(self.create_tempdir().full_path)
        with zipfile.ZipFile(Path(__file__).parent / "old_run_format1.zip") as archive:
            archive.extractall(folder)
        return folder

    def test_a_checkpoint_of_format_1_is_read(self):
        folder = self.unpacked()
        self.assertEqual(manifest.damage(folder / "checkpoints" / "2"), "")
        self.assertNotIn("format", manifest.read(folder / "checkpoints" / "2"))
        config = json.loads((folder / "config.json").read_text())
        run = Experiment.from_config({k: v for k, v in config.items() if k != "spec"}, folder)
        with Checkpoints(folder / "checkpoints", reader=True) as checkpoints:
            resumed = checkpoints.resume(run.abstract_state, run.placed)
        self.assertEqual((resumed.step, int(resumed.state.step)), (2, 2))
        self.assertTrue(resumed.metadata["evaluated"])
        self.assertEqual(resumed.metadata["left_out"], 0)
        check_resumable(resumed.metadata["config"], run.resolved(), "it", run.defaults())

    @pytest.mark.full
    def test_a_run_of_format_1_is_trained_to_its_end(self):
        folder = self.unpacked()
        before = read_metrics(folder)
        ssl_jax.train(workdir=folder, settings={"train.stop_at": 0}, log=())
        lines = read_metrics(folder)
        self.assertEqual(lines[: len(before)], before)
        self.assertEqual(lines[-1]["step"], 4)
        self.assertTrue(np.isfinite(lines[-1]["train/loss"]))
        written = manifest.read(folder / "checkpoints" / "4")
        self.assertEqual(written["format"], checkpoint_format.current())


if __name__ == "__main__":
    absltest.main()
