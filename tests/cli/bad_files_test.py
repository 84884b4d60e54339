"""Folders with corrupt files: training continues, deterministically, and reports the files."""

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from absl.testing import absltest
from PIL import Image

from ssl_jax import cli
from ssl_jax.data.reader import Reader
from ssl_jax.data.sources import open_source
from ssl_jax.training.metrics import read_metrics

GOOD = 20


def picture(seed: int, height: int = 40, width: int = 50) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8))


def folder_as_people_have_them(folder: Path) -> set[str]:
    """Write twenty plain JPEGs, some odd but valid files, and corrupt ones; return their names."""
    for i in range(GOOD):
        picture(i).save(folder / f"{i:02d}.jpg")
    deep = np.random.default_rng(1).integers(0, 65535, (40, 40), dtype=np.uint16)
    cv2.imwrite(str(folder / "sixteen_bits.png"), deep)
    picture(90).convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture(91).save(folder / "turned.jpg", exif=exif)
    frames = [picture(92).convert("P"), picture(93).convert("P")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    picture(94, 3, 500).save(folder / "sliver.png")

    whole = (folder / "00.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    Image.new("L", (30_000, 30_000)).save(folder / "bomb.png")
    return {"truncated.jpg", "empty.jpg", "text.jpg", "bomb.png"}


@contextlib.contextmanager
def logged(stream: io.StringIO) -> Iterator[None]:
    """Write the log to `stream` too; pytest has redirected absl's own handler."""
    handler = logging.StreamHandler(stream)
    logging.getLogger("absl").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("absl").removeHandler(handler)


class BadFilesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.images = self.folder / "images"
        self.images.mkdir()
        self.bad = folder_as_people_have_them(self.images)

    def train(self, name: str, *flags: str) -> tuple[int, str]:
        """Return the exit code and what was written to stderr and to the log."""
        argv = (
            "train",
            "--config=simclr:digits",
            f"--data=folder:{self.images}",
            f"--workdir={self.folder / name}",
            "--config.backbone.width=4",
            "--config.objective.view.recipe=simclr_cifar",
            "--config.objective.view.area=(0.2,1.0)",
            "--config.objective.projector=(8,8)",
            "--config.train.batch_size=8",
            "--config.train.steps=8",
            "--config.train.log_every=1",
            "--config.evals.every=-1",
        )
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), logged(err):
            code = cli.run([*argv, *flags])
        return code, err.getvalue()

    def losses(self, name: str) -> list[tuple[float, float]]:
        return [(x["step"], x["train/loss"]) for x in read_metrics(self.folder / name)]

    def test_training_goes_on_and_is_the_same_after_a_resume(self):
        some = "--config.data.max_bad_fraction=0.5"
        code, whole = self.train("whole", some)
        self.assertEqual(code, 0, whole)
        for name in self.bad:
            self.assertLen(re.findall(re.escape(name), whole), 1, whole)
        for fine in ("sixteen_bits", "cmyk", "turned", "moving", "sliver"):
            self.assertNotIn(fine, whole)
        self.assertEqual(read_metrics(self.folder / "whole")[-1]["perf/bad_images"], len(self.bad))

        first = self.train("parts", some, "--config.train.stop_at=3")
        second = self.train("parts", some)
        self.assertEqual((first[0], second[0]), (0, 0), second[1])
        self.assertEqual(self.losses("parts"), self.losses("whole"))

    def test_too_many_are_a_one_line_error(self):
        code, err = self.train("few", "--config.data.max_bad_fraction=0.05")
        self.assertEqual(code, 2, err)
        self.assertNotIn("Traceback", err)
        last = err.strip().splitlines()[-1]
        self.assertRegex(last, "^ssl-jax: .*max_bad_fraction")

    def test_a_file_that_went_away(self):
        missing = self.images / "07.jpg"
        source = open_source(f"folder:{self.images}")
        missing.unlink()
        names = [source.describe(i) for i in range(len(source))]
        (index,) = (i for i, name in enumerate(names) if name.endswith("07.jpg"))
        err = io.StringIO()
        with logged(err):
            pixels, instead = Reader(source, 3, 0, 0.5).pixels(index)
            again = Reader(source, 3, 0, 0.5).pixels(index)
        self.assertNotEqual(instead, index)
        self.assertEqual(pixels.ndim, 3)
        self.assertEqual(again[1], instead)
        self.assertIn("07.jpg", err.getvalue())


if __name__ == "__main__":
    absltest.main()
