"""Runs of older versions can be resumed: their configs are valid and their states have its form.

`old_runs.json` was written by the code of commit de168b2: config.json of a tiny run per method and
backbone (`common` holds what most of them share), and digests of the paths, shapes and dtypes of
its state's arrays. It is never written again; a test that fails means that old runs are lost.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
from absl.testing import absltest, parameterized

from ssl_jax.core.files import write_json
from ssl_jax.run.experiment import Experiment
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


if __name__ == "__main__":
    absltest.main()
