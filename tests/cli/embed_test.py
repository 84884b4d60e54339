"""`ssl-jax embed` and `ssl_jax.load` on a run: files, output and refusals."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from unittest import mock

import cv2
import jax
import numpy as np
import pyarrow.parquet as pq
from absl.testing import absltest, parameterized

import ssl_jax
from ssl_jax import cli
from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import open_source
from ssl_jax.embeddings import run
from tests.faults.runs import meeting

ROOT = Path(__file__).parents[2]
TINY = (
    "--config=simclr:digits",
    "--config.backbone.width=4",
    "--config.objective.projector=(8,8)",
    "--config.train.steps=4",
    "--config.train.batch_size=32",
    "--config.checkpoint.every=2",
    "--config.evals.every=-1",
)


def command(*argv, code=0):
    """Run a subcommand; return what it prints, or its error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.run([*argv])
    assert status == code, err.getvalue()
    return out.getvalue() if not code else err.getvalue()


class EmbedTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.run_folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory())) / "run"
        command("train", f"--workdir={cls.run_folder}", *TINY)

    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def embed(self, *flags, output="e.npz", code=0):
        where = (f"--workdir={self.run_folder}", f"--output={self.folder / output}")
        return command("embed", *where, *flags, code=code)

    def test_features_with_neighbours(self):
        out = self.embed("--neighbors=3", "--split=eval")
        self.assertIn("digits: 360 images, 16 features of stage3 (pool pooled), step 4 of", out)
        self.assertRegex(out, r"e\.npz: 360 rows, 0\.\d MiB, 360 images in 0:")
        self.assertIn("near['row'][i]", out)
        digits = open_source("digits", "eval")
        encoder = ssl_jax.load(self.run_folder)
        with np.load(self.folder / "e.npz") as file:
            expected = np.asarray(encoder(digits.arrays))
            np.testing.assert_allclose(file["features"], expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(file["label"], digits.labels)
        with np.load(self.folder / "e.neighbors.npz") as file:
            self.assertEqual(file["row"].shape, (360, 3))
        out = self.embed("--split=eval")
        self.assertIn("already complete", out)

    def test_a_layer_of_a_step_by_patches(self):
        out = self.embed("--stage=stage2", "--patches", "--step=2", output="p.parquet")
        self.assertIn("4 x 4 x 8 features of stage2 (pool none), step 2 of", out)
        encoder = ssl_jax.load(self.run_folder, step=2, stage=-2, pool="none")
        rows = pq.read_table(self.folder / "p.parquet")["features"]
        expected = encoder(open_source("digits").arrays[:5])
        values = np.array(rows.slice(0, 5).to_pylist()).reshape(5, 4, 4, 8)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)

    @parameterized.parameters(("safetensors", "w.safetensors"), ("npz", "w.npz"), ("orbax", "w"))
    def test_an_exported_file_is_the_same_encoder(self, form, name):
        weights = self.folder / name
        command("export", f"--workdir={self.run_folder}", f"--format={form}", f"--output={weights}")
        images = open_source("digits", "eval").arrays[:8]
        of_run, of_file = ssl_jax.load(self.run_folder), ssl_jax.load(weights)
        np.testing.assert_array_equal(of_file(images), of_run(images))
        self.assertEqual(of_file.config, of_run.config)
        with self.assertRaisesRegex(UserError, "holds the weights of only one step"):
            ssl_jax.load(weights, step=2)
        both = [f"--data=npz:{self.folder / 'd.npz'}"]
        np.savez(self.folder / "d.npz", images=images)
        self.embed(*both)
        out = self.folder / "f.npz"
        self.assertIn(name, command("embed", f"--weights={weights}", f"--output={out}", *both))
        with np.load(self.folder / "e.npz") as first, np.load(out) as second:
            np.testing.assert_array_equal(first["features"], second["features"])

    @parameterized.parameters("Explicit", "Auto")
    def test_on_any_mesh(self, kind):
        types = (getattr(jax.sharding.AxisType, kind),)
        mesh = jax.make_mesh((2,), ("data",), types, devices=jax.devices()[:2])
        crops = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 1), np.uint8)
        encoder = ssl_jax.load(self.run_folder, mesh=mesh)
        for leaf in jax.tree.leaves(encoder.params):
            self.assertEqual(leaf.sharding, jax.sharding.NamedSharding(mesh, jax.P()))
        expected = ssl_jax.load(self.run_folder)(crops)
        np.testing.assert_allclose(encoder(crops), expected, rtol=1e-5, atol=1e-6)
        with jax.set_mesh(mesh):
            np.testing.assert_allclose(encoder(crops), expected, rtol=1e-5, atol=1e-6)

    def test_a_program_of_a_run(self):
        output = self.folder / "encoder.zip"
        where = (f"--workdir={self.run_folder}", f"--output={output}", "--format=stablehlo")
        self.assertIn("(any number)x16x16x1 to features of 16", command("export", *where))
        with zipfile.ZipFile(output) as file:
            program = jax.export.deserialize(bytearray(file.read("program.bin")))
            card = json.loads(file.read("card.json"))
        self.assertEqual(card["config"]["objective"]["name"], "simclr")
        images = open_source("digits", "eval").arrays[:5]
        encoder = ssl_jax.load(self.run_folder)
        outputs, expected = program.call(encoder.crop(images)), encoder(images)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)

    def test_a_folder_with_corrupt_images(self):
        images = self.folder / "some[1]"  # what looks like markup
        images.mkdir()
        for i in range(20):
            pixels = np.full((9, 9 + i, 3), 10 * i, np.uint8)
            cv2.imwrite(str(images / f"{i:02d}.png"), pixels)
        for i in range(12):
            (images / f"x{i:02d}.png").write_bytes(b"broken")
        data = (f"--data=folder:{images}", "--max_bad_fraction=0.5")
        out = self.embed(*data)
        self.assertIn(f"left out, corrupt: {images}/x00.png\n", out)
        self.assertIn("left out, corrupt: 2 more, listed in the file", out)
        self.assertIn("20 rows", out)
        with np.load(self.folder / "e.npz") as file:
            self.assertEqual(file["name"][1], "01.png")
        out = self.embed(data[0], code=2, output="f.npz")
        self.assertRegex(out, r"^ssl-jax: .*images of folder:.* cannot be read")

    def test_a_line_for_what_was_done_before(self):
        with (
            mock.patch.object(run, "PART_ROWS", 256),
            mock.patch.object(run, "_assemble", side_effect=OSError("disk is full")),
        ):
            out = self.embed(code=2)
            self.assertRegex(out, r"^ssl-jax: cannot write .*disk is full; finished parts are kept")
        with mock.patch.object(run, "PART_ROWS", 256):
            self.assertIn("1,437 of 1,437 images are done already", self.embed())

    @parameterized.parameters(
        (("--output=/nowhere/e.npz",), "no folder /nowhere"),
        (("--output=e.csv",), "expected one of FILE.npz"),
        (("--stage=stage9",), "no layer 'stage9' in this network; expected one of stage1, "),
        (("--stage=5",), "no stage 5"),
        (
            ("--pool=max",),
            "--pool: expected one of 'pooled', 'avg', 'grid', 'cls', 'none', got 'max'",
        ),
        (("--pool=cls",), "class token"),
        (("--patches", "--pool=avg"), "--patches and --pool=avg: give one"),
        (("--patches", "--neighbors=3"), "--neighbors compares whole images"),
        (("--neighbors=0",), "--neighbors: expected a whole number of at least 1, got 0"),
        (("--batch_size=0",), "--batch_size: expected a whole number of at least 1"),
        (("--max_bad_fraction=2",), r"--max_bad_fraction: expected a number in \[0, 1\], got 2"),
        (("--split=test",), "--split: expected one of 'train', 'eval', got 'test'"),
        (("--step=3",), "no checkpoint of step 3; there are: 2, 4"),
        (("--data=folder:/nowhere",), "folder:/nowhere: no such folder"),
        (("--workdir=/nowhere",), "no run in /nowhere"),
        (
            ("--weights=w.safetensors",),
            "set either --workdir=W, the folder of a run, or --weights=F, a file",
        ),
        (("--neighbours=3",), "unknown flag --neighbours; did you mean 'neighbors'"),
    )
    def test_refused_with_one_line(self, flags, message):
        out = self.embed(*flags, code=2)
        self.assertRegex(out, rf"\Assl-jax: .*{message}.*\n\Z")
        self.assertEmpty(list(self.folder.iterdir()))

    def test_too_many_neighbours(self):
        out = self.embed("--neighbors=360", "--split=eval", code=2)
        self.assertIn("expected fewer than the 360 rows", out)

    def test_loading_what_is_not_there(self):
        for path, message in (("/nowhere", "no run in"), (__file__, "is not a file of weights")):
            with self.assertRaisesRegex(UserError, message):
                ssl_jax.load(path)

    def test_two_processes_write_one_file(self):
        self.embed("--split=eval", "--batch_size=32")
        env = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
        together = meeting()
        places = [(together, "--num_processes=2", f"--process_id={i}") for i in range(2)]
        flags = ("--split=eval", "--batch_size=32", "--neighbors=2")
        where = (f"--workdir={self.run_folder}", f"--output={self.folder / 'two.npz'}")
        both = [
            subprocess.Popen(
                [sys.executable, "-m", "ssl_jax", "embed", *where, *flags, *place],
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for place in places
        ]
        for process in both:
            _, err = process.communicate(timeout=600)
            self.assertEqual(process.returncode, 0, err)
        with np.load(self.folder / "e.npz") as first, np.load(self.folder / "two.npz") as second:
            self.assertEqual(first.files, second.files)
            for key in first.files:
                if key == "features":
                    np.testing.assert_allclose(first[key], second[key], rtol=1e-4, atol=1e-5)
                else:
                    np.testing.assert_array_equal(first[key], second[key])
        names = {path.name for path in self.folder.iterdir()}
        self.assertEqual(names, {"e.npz", "two.npz", "two.neighbors.npz"})


if __name__ == "__main__":
    absltest.main()
