"""The site builds without a warning, has the API, and needs nothing from other servers."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import absltest

ROOT = Path(__file__).parent.parent
LOADED = re.compile(r'<(?:script|img|link rel="stylesheet")[^>]*"(https?:[^"]*)"')
# Words that must be on a page: functions of `ssl_jax`, a loss, the contract, protocols, a method.
API = {
    "api/python": [
        f"ssl_jax.{module}.{name}"
        for module in ("api", "api_labels")
        for name in importlib.import_module(f"ssl_jax.{module}").__all__
    ],
    "api/losses": ("ssl_jax.losses.ntxent.ntxent", "ssl_jax.losses.sinkhorn.sinkhorn"),
    "api/contract": ("ssl_jax.objectives.base.Objective.loss", "ssl_jax.core.inputs.View"),
    "api/evaluation": ("ssl_jax.evals.protocols.fewshot.FewShot",),
    "api/augmentation": ("ssl_jax.augment.recipes.augment",),
}


@pytest.mark.full
class SiteTest(absltest.TestCase):
    def test_the_site_builds(self):
        pytest.importorskip("mkdocs")
        pytest.importorskip("mkdocstrings")
        site = Path(self.create_tempdir().full_path)
        # Without -q, which silences the warnings that --strict counts.
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)]
        environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        for page, names in API.items():
            text = (site / page / "index.html").read_text()
            for name in names:
                self.assertIn(f'id="{name}"', text)
        self.assertTrue((site / "notebooks" / "first_run.ipynb").exists())
        code = site / "repository" / "ssl_jax" / "objectives" / "simclr.py" / "index.html"
        self.assertIn("class", code.read_text())
        for page in site.rglob("index.html"):
            self.assertEqual(LOADED.findall(page.read_text()), [], page)


if __name__ == "__main__":
    absltest.main()
