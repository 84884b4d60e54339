"""The tutorials run as they stand; their notebooks and the table of choices are current."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import absltest, parameterized

from docs import make_choice, make_notebooks
from tests.compiling import users_environment

ROOT = Path(__file__).parent.parent
TASKS = sorted((ROOT / "docs" / "tasks").glob("*.md"))
RUNNABLE = [path for path in (*make_notebooks.PAGES, *TASKS) if "\n```bash\n" in path.read_text()]


class TutorialsTest(parameterized.TestCase):
    def test_there_are_six_tutorials_and_two_tasks(self):
        self.assertLen(make_notebooks.PAGES, 6)
        self.assertLen(RUNNABLE, 8)

    @parameterized.parameters(*make_notebooks.PAGES)
    def test_a_notebook_is_current(self, page):
        notebook = json.loads((make_notebooks.NOTEBOOKS / f"{page.stem}.ipynb").read_text())
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
        self.assertEqual(cells, make_notebooks.cells(page.read_text()))

    def test_the_table_of_choices_is_current(self):
        """`python docs/make_choice.py` writes it."""
        self.assertEqual(make_choice.PAGE.read_text(), make_choice.page())

    def test_a_block_becomes_a_cell_and_a_line_of_the_script(self):
        page = (
            '# T\n\n```python title="a.py"\nx = 1\n```\n\nThen\n\n'
            "```bash\nls \\\n    -a\ncat a.py\n```\n"
        )
        self.assertEqual(
            make_notebooks.cells(page),
            [
                ("markdown", "# T"),
                ("code", "%%writefile a.py\nx = 1"),
                ("markdown", "Then"),
                ("code", "!ls \\\n    -a\n!cat a.py"),
            ],
        )
        folder = self.create_tempdir().full_path
        command = [sys.executable, "-c", make_notebooks.script(page)]
        printed = subprocess.run(command, cwd=folder, check=True, capture_output=True)
        self.assertEndsWith(printed.stdout.decode(), "x = 1\n")


@pytest.mark.full
class PagesTest(parameterized.TestCase):
    @parameterized.parameters(*RUNNABLE)
    def test_a_page_runs(self, page):
        folder = Path(self.create_tempdir().full_path)
        run(page, folder)


def run(page: Path, folder: Path) -> None:
    """Run the blocks of a page in a copy of the package in `folder`, as in a fresh clone."""
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("ssl_jax", "configs", "launch"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    environment = users_environment()
    environment["PYTHONPATH"] = str(folder)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    (folder / "tutorial.py").write_text(make_notebooks.script(page.read_text()))
    subprocess.run([sys.executable, "-u", "tutorial.py"], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    absltest.main()
