"""The example of the page of protocols: folders of backgrounds and of conflicting cues."""

import contextlib
import re
from pathlib import Path

import jax
from absl.testing import absltest

from ssl_jax.core.inputs import View
from ssl_jax.data.sources import open_source
from ssl_jax.evals.base import Subject, measured
from ssl_jax.evals.images import Images
from ssl_jax.evals.protocols.backgrounds import Backgrounds
from ssl_jax.evals.protocols.cue_conflict import CueConflict
from ssl_jax.objectives.base import Probe

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"


class ExampleTest(absltest.TestCase):
    def test_the_folders_of_the_page_are_measured(self):
        section = PAGE.read_text().partition("\n## Robustness\n")[2].partition("\n## ")[0]
        code, files = re.search(r"```python\n(.*?)```.*?```\n(.*?)```", section, re.S).groups()
        mesh = jax.make_mesh((1, 1, 1), ("replica", "data", "fsdp"))
        how = dict(view=View(32), channels=3, batch_size=64, mesh=mesh)
        sets = (open_source("photos", part) for part in ("train", "eval"))
        subject = Subject(None, Images.of(*sets, 200, 20, **how), Probe())
        common = {"classes": "kinds.csv", "classifier": "knn"}
        with contextlib.chdir(self.create_tempdir().full_path):
            exec(compile(code, "protocols.md", "exec"), {})
            for file in files.split():
                self.assertLen(list(Path().glob(file)), 1, file)
            numbers = {}
            for protocol in (
                Backgrounds(data="grounds", **common),
                CueConflict(data="folder:cues", **common),
            ):
                ((_, some),) = measured([protocol], subject)
                numbers |= some
        self.assertGreater(numbers["eval/backgrounds_mixed_same_top1"], 0.75)  # chance is 0.5
        self.assertGreater(numbers["eval/backgrounds_gap"], 0)
        decided = sum(numbers[f"eval/cue_conflict_{cue}"] for cue in ("shape", "texture"))
        self.assertAlmostEqual(decided, 1)  # there are two kinds


if __name__ == "__main__":
    absltest.main()
