"""The containers' builds get every file that they need."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from absl.testing import absltest, parameterized

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


class DockerTest(parameterized.TestCase):
    @parameterized.parameters(*FILES)
    def test_what_is_copied_is_sent_to_the_builder(self, path):
        sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()}
        self.assertEqual(set(copied(path)) - sent, set())
        self.assertEqual([name for name in copied(path) if not (ROOT / name).exists()], [])

    @pytest.mark.full
    def test_a_wheel_can_be_built_from_it(self):
        folder = Path(self.create_tempdir().full_path)
        for name in copied(FILES[0]):
            (folder / name).symlink_to(ROOT / name)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "out"]
        subprocess.run(command, cwd=folder, check=True)
        (wheel,) = (folder / "out").iterdir()
        names = zipfile.ZipFile(wheel).namelist()
        self.assertIn("ssl_jax/configs/simclr.py", names)
        self.assertIn("ssl_jax/launch/local.py", names)


def copied(path: Path) -> list[str]:
    """List what a Dockerfile copies from this repository."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", path.read_text(), re.M)
    return [word for line in lines for word in line.split()[:-1]]


if __name__ == "__main__":
    absltest.main()
