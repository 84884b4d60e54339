"""`ssl-jax train --dry_run`: what it prints and draws, and that no run begins."""

import contextlib
import io
from pathlib import Path

import cv2
from absl.testing import absltest

from ssl_jax import cli
from ssl_jax.run import contact_sheet

TINY = ("--config.backbone.width=4", "--config.train.steps=4", "--config.train.batch_size=16")


class DryRunTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def command(self, *argv: str) -> tuple[int, str]:
        """Run `train` in the folder "deep/W"; return its exit code and what it prints."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = cli.run(["train", f"--workdir={self.folder / 'deep' / 'W'}", *argv])
        return code, out.getvalue()

    def test_it_shows_the_run_and_starts_none(self):
        code, out = self.command("--config=simclr:digits", *TINY, "--dry_run")
        self.assertEqual(code, 0, out)
        self.assertContainsInOrder(
            [
                "parameters on 8 cpu device(s)",
                "4 steps of 16",
                "would be a new run; it ends at step 4",
                "memory per device: about",
                "an estimate: the compiler's plan",
                "time: at least a few seconds for 4 steps",
                "W.dry_run.png: the first 12 images, the original and 2 view(s)",
                "nothing was trained",
            ],
            out,
        )
        left = [path.name for path in (self.folder / "deep").iterdir()]
        self.assertEqual(left, ["W.dry_run.png"])
        picture = cv2.imread(str(self.folder / "deep" / "W.dry_run.png"))
        side = contact_sheet.SIDE + contact_sheet.GAP
        self.assertEqual(picture.shape, (12 * side, 3 * side, 3))

    def test_it_excludes_flags_of_training(self):
        for other in ("--profile=1:2", "--restarts=1"):
            code, out = self.command("--config=simclr:digits", "--dry_run", other)
            self.assertEqual(code, 2)
            self.assertIn("not both", out)


if __name__ == "__main__":
    absltest.main()
