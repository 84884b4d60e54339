"""Files of features: content, parts, kills, corrupt images, refusals."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cv2
import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from absl.testing import absltest, parameterized
from array_record.python.array_record_module import ArrayRecordReader

from ssl_jax.core import sharding
from ssl_jax.core.errors import UserError
from ssl_jax.data.records import decode_features
from ssl_jax.data.sources import ArraySource, open_source
from ssl_jax.embeddings import formats, run, shards
from tests.embeddings.encoder_test import images, small

ROOT = Path(__file__).parents[2]
ENDS = tuple(formats.FORMATS)
COUNT, BATCH = 150, 16
# A separate run that kills itself: in the middle of a part, or of the file made from all parts.
KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from ssl_jax.embeddings import formats, run, shards
from tests.embeddings.run_test import job, source
where, output = sys.argv[1:]
savez, read = np.savez, shards.Parts.read
calls = []
def killed(file, **arrays):
    calls.append(1)
    if len(calls) == 3:
        file.write(b"PK half a part")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    savez(file, **arrays)
def killed_later(self, number):
    if number == 3 and (self.folder / f"whole{Path(output).suffix}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, number)
if where == "part":
    np.savez = killed
else:
    shards.Parts.read = killed_later
run.PART_ROWS = 32
run.embed(job(output))
"""


def source(count=COUNT):
    labels = np.arange(count) % 3
    return ArraySource("a set", images(count, 20, 20, 3), labels, ("cat", "dog", "cow"))


def job(output, devices=None, **options):
    mesh = sharding.make_mesh(sharding.MeshConfig(), devices)
    encoder = options.pop("encoder", None) or small()
    data = options.pop("source", None) or source()
    return run.Job(encoder, data, Path(output), mesh, BATCH, **options)


def kill(where, output):
    """Start a run that is killed at `where`."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where, str(output)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


class EmbedTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)
        self.enterContext(mock.patch.object(run, "PART_ROWS", 32))

    def read(self, output):
        return np.concatenate(list(formats.of(output).features(output)))

    def fail_to_assemble(self, output):
        """Run until all parts are complete, and fail to assemble them."""
        full = mock.patch.object(
            run, "_assemble", side_effect=OSError(errno.ENOSPC, "disk is full")
        )
        with full, self.assertRaisesRegex(UserError, "disk is full.*kept in .*e.npz.parts"):
            run.embed(job(output))

    def test_rows_are_the_encoders(self):
        output = self.folder / "e.npz"
        metadata = run.embed(job(output))
        encoder, data = small(), source()
        with np.load(output) as content:
            expected = np.asarray(encoder(data.arrays))
            np.testing.assert_allclose(content["features"], expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(content["index"], np.arange(COUNT))
            np.testing.assert_array_equal(content["label"], data.labels)
            self.assertEqual(content["name"][7], "index 7 of a set")
            self.assertEqual(json.loads(str(content["about"])), metadata)
        self.assertEqual((metadata["rows"], metadata["left_out"]), (COUNT, []))
        self.assertEqual(metadata["class_names"], ["cat", "dog", "cow"])
        self.assertEqual([p.name for p in self.folder.iterdir()], ["e.npz"])

    @parameterized.product(end=ENDS, pool=("avg", "none"))
    def test_formats_agree(self, end, pool):
        output = self.folder / f"e{end}"
        encoder = small().at("stage2", pool)
        metadata = run.embed(job(output, encoder=encoder))
        self.assertEqual(formats.read_metadata(output), metadata)
        expected = np.asarray(encoder(source().arrays))
        np.testing.assert_allclose(self.read(output), expected, rtol=1e-4, atol=1e-5)

    def test_parquet_columns(self):
        output = self.folder / "e.parquet"
        run.embed(job(output))
        table = pq.read_table(output)
        self.assertEqual(table.schema.names, ["index", "name", "label", "features"])
        self.assertEqual(pq.ParquetFile(output).num_row_groups, 5)
        row = table.slice(100, 1).to_pylist()[0]
        self.assertEqual((row["index"], row["label"]), (100, 1))
        self.assertLen(row["features"], 16)

    def test_records(self):
        output = self.folder / "e.array_record"
        run.embed(job(output))
        record = decode_features(ArrayRecordReader(str(output)).read(100, 101)[0])
        self.assertEqual((record["index"], record["label"]), (100, 1))
        self.assertEqual(record["name"], [b"index 100 of a set"])
        self.assertEqual(record["features"].shape, (16,))

    def test_an_interrupted_run_resumes_to_the_same_file(self):
        self.check_interruption(".npz")

    @parameterized.parameters(*ENDS[1:])
    @pytest.mark.full
    def test_in_other_formats_it_resumes_too(self, end):
        """The parts are the same in all formats; what is written from them is not."""
        self.check_interruption(end)

    def check_interruption(self, end):
        whole, killed = self.folder / f"whole{end}", self.folder / f"killed{end}"
        run.embed(job(whole))
        kill("part", killed)
        names = sorted(p.name for p in self.folder.glob("killed*.parts/0*"))
        self.assertEqual(names, [f"00000{n}-00000-of-00001.npz" for n in (0, 1)])
        if end == ".npz":
            kill("file", killed)
            self.assertFalse(killed.exists())
        calls = []
        run.embed(job(killed), lambda *done: calls.append(done))
        self.assertEqual(calls[0], (COUNT if end == ".npz" else 64, 0))
        self.assertEqual(killed.read_bytes(), whole.read_bytes())
        self.assertLen(list(self.folder.iterdir()), 2 if end != ".array_record" else 4)

    def test_a_corrupt_part_is_recomputed(self):
        whole, output = self.folder / "whole.npz", self.folder / "e.npz"
        run.embed(job(whole))
        self.fail_to_assemble(output)
        first, second = sorted(self.folder.glob("e.npz.parts/0*"))[:2]
        data = bytearray(first.read_bytes())
        data[-700] ^= 1
        first.write_bytes(bytes(data))
        second.write_bytes(second.read_bytes()[:-9])
        calls = []
        run.embed(job(output), lambda *done: calls.append(done))
        self.assertEqual(calls[0], (COUNT - 64, 0))
        self.assertEqual(output.read_bytes(), whole.read_bytes())

    def test_parts_without_a_row(self):
        for i in range(70):
            cv2.imwrite(str(self.folder / f"{i:02d}.png"), images(20, 20, 3, seed=i))
        for i in range(32, 64):
            (self.folder / f"{i:02d}.png").write_bytes(b"no image")
        data = open_source(f"folder:{self.folder}")
        for end in ENDS:
            output = Path(self.create_tempdir().full_path) / f"e{end}"
            metadata = run.embed(job(output, source=data, max_bad_fraction=0.5))
            self.assertEqual(metadata["rows"], 38)
            self.assertEqual(self.read(output).shape, (38, 16))

    def test_nothing_is_done_twice(self):
        output = self.folder / "e.npz"
        metadata = run.embed(job(output))
        with shards.opened(output, job(output).settings):
            pass  # as after a kill before the parts were removed
        with mock.patch.object(run, "_compute", side_effect=AssertionError):
            self.assertEqual(run.embed(job(output)), metadata)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["e.npz"])

    def test_other_settings_are_refused(self):
        output = self.folder / "e.npz"
        self.fail_to_assemble(output)
        with self.assertRaisesRegex(UserError, r"parts holds features made with another weights"):
            run.embed(job(output, encoder=small(seed=1)))
        run.embed(job(output))
        before = output.read_bytes()
        for other in (dict(encoder=small().at(-2)), dict(source=source(140))):
            with self.assertRaisesRegex(UserError, "holds features made with another .*remove it"):
                run.embed(job(output, **other))
        self.assertEqual(output.read_bytes(), before)

    def test_other_files_stay(self):
        for end in ENDS:
            output = self.folder / f"mine{end}"
            output.write_bytes(b"something dear")
            with self.assertRaisesRegex(UserError, "exists already and is not a file of features"):
                run.embed(job(output))
            self.assertEqual(output.read_bytes(), b"something dear")
        folder = self.folder / "e.npz.parts"
        folder.mkdir()
        (folder / "mine.txt").write_text("dear")
        with self.assertRaisesRegex(UserError, "other files"):
            run.embed(job(self.folder / "e.npz"))

    def test_one_at_a_time(self):
        output = self.folder / "e.npz"
        lock = shards.opened(output, job(output).settings)
        with lock, self.assertRaisesRegex(UserError, "another run is writing"):
            run.embed(job(output))

    def test_corrupt_images_have_no_row(self):
        for i in range(40):
            cv2.imwrite(str(self.folder / f"{i:02d}.png"), images(20, 20, 3, seed=i))
        (self.folder / "07.png").write_bytes(b"no image")
        (self.folder / "35.png").write_bytes(b"")
        output, data = self.folder / "e.npz", open_source(f"folder:{self.folder}")
        metadata = run.embed(job(output, source=data, max_bad_fraction=0.1))
        self.assertEqual(metadata["rows"], 38)
        expected = [str(self.folder / f"{name}.png") for name in ("07", "35")]
        self.assertEqual(metadata["left_out"], expected)
        with np.load(output) as content:
            rest = [i for i in range(40) if i not in (7, 35)]
            np.testing.assert_array_equal(content["index"], rest)
            np.testing.assert_array_equal(content["name"], [f"{i:02d}.png" for i in rest])
            self.assertNotIn("label", content)
            self.assertTrue(np.isfinite(content["features"]).all())
        with self.assertRaisesRegex(UserError, "2 of 40 images"):
            run.embed(job(self.folder / "f.npz", source=data))

    def test_a_batch_of_any_size_on_any_devices(self):
        output = self.folder / "e.npz"
        run.embed(job(output, jax.devices()[:3]))
        expected = np.asarray(small()(source().arrays))
        np.testing.assert_allclose(self.read(output), expected, rtol=1e-4, atol=1e-5)

    def test_an_unknown_suffix(self):
        with self.assertRaisesRegex(UserError, r"expected one of FILE.npz, FILE.parquet"):
            run.embed(job(self.folder / "e.csv"))


class PartsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def write(self, process, count, examples):
        features = np.array(examples, np.float32)[:, None]
        with (
            mock.patch.object(jax, "process_index", lambda: process),
            mock.patch.object(jax, "process_count", lambda: count),
        ):
            shards.Parts(self.folder).write(4, shards.Rows(np.array(examples), features))

    def test_a_part_is_there_when_all_processes_wrote_it(self):
        parts = shards.Parts(self.folder)
        self.write(1, 2, [2, 3, 6, 7])
        self.assertFalse(parts.listed(4))
        self.write(0, 2, [0, 1, 4, 5])
        self.assertTrue(parts.keep(4))
        rows = parts.read(4)
        np.testing.assert_array_equal(rows.examples, np.arange(8))
        np.testing.assert_array_equal(rows.features[:, 0], np.arange(8))
        np.testing.assert_array_equal(parts.examples(4), np.arange(8))

    def test_another_number_of_processes_recomputes_it(self):
        parts = shards.Parts(self.folder)
        self.write(1, 3, [9])
        self.assertFalse(parts.keep(4))
        self.assertEmpty(list(self.folder.iterdir()))
        self.write(0, 1, [0, 1])
        self.assertTrue(parts.keep(4))


class NamesTest(absltest.TestCase):
    def test_names_that_are_no_utf8(self):
        folder, where = (Path(self.create_tempdir().full_path) for _ in range(2))
        for name in (b"a\xff.png", "ü.png".encode()):
            (folder / os.fsdecode(name)).write_bytes(cv2.imencode(".png", images(9, 9, 3))[1])
        data = open_source(f"folder:{folder}")
        for end in ENDS:
            run.embed(job(where / f"names{end}", source=data))
        with np.load(where / "names.npz") as content:
            self.assertEqual(sorted(content["name"]), ["a\\xff.png", "ü.png"])
        table = pq.read_table(where / "names.parquet")
        self.assertEqual(sorted(table["name"].to_pylist()), ["a\\xff.png", "ü.png"])


if __name__ == "__main__":
    absltest.main()
