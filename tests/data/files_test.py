import os
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data import files
from ssl_jax.data.files import matching, remote_filesystem, size_and_time

NAMES = ("b.parquet", "a.parquet", "deep/c.parquet", "deep/d.txt", "deep/e/e.parquet", ".f.parquet")


class MatchingTest(parameterized.TestCase):
    @parameterized.product(
        case=[
            ("/a.parquet", "a"),
            ("", "abce"),
            ("/", "abce"),
            ("/*.parquet", "ab"),
            ("/**/*.parquet", "abce"),
            ("/*/*.parquet", "c"),
            ("/[b-z].parquet", "b"),
            ("/deep/?.*", "cd"),
            ("/nothing/*", None),
            ("/nothing.parquet", None),
        ],
        remote=[False, True],
    )
    def test_matching(self, case, remote):
        pattern, want = case
        if remote:
            root = "memory://bucket/set"
            filesystem = fsspec.filesystem("memory")
            for name in NAMES:
                filesystem.pipe(f"/bucket/set/{name}", b"x")
        else:
            root = self.create_tempdir().full_path
            for name in NAMES:
                Path(root, name).parent.mkdir(parents=True, exist_ok=True)
                Path(root, name).write_bytes(b"x")
        if want is None:
            with self.assertRaisesRegex(UserError, "scheme:.*no such file"):
                matching("scheme", root + pattern, "*.parquet")
        else:
            paths = matching("scheme", root + pattern, "*.parquet")
            self.assertEqual(paths, sorted(paths))
            self.assertEqual({size_and_time("scheme", f)[0] for f in paths}, {1})
            self.assertTrue(all(f.startswith(root) and "//" not in f[10:] for f in paths), paths)
            self.assertEqual("".join(sorted(Path(f).stem for f in paths)), want)

    def test_a_store_that_nothing_knows(self):
        with self.assertRaisesRegex(UserError, "nowhere://x/y: cannot be opened"):
            remote_filesystem("parquet", "nowhere://x/y")


class SampleTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.paths, self.sizes = [], [50_000, 0, 300, 20_000]
        for i, size in enumerate(self.sizes):
            self.paths.append(self.create_tempfile(f"{i}").full_path)
            Path(self.paths[-1]).write_bytes(np.random.default_rng(i).bytes(size))

    def flip(self, file, at):
        data = bytearray(Path(self.paths[file]).read_bytes())
        data[at] ^= 1
        Path(self.paths[file]).write_bytes(data)

    def test_every_byte_of_small_sets(self):
        before = files.sample(self.paths, self.sizes)
        os.utime(self.paths[0], (1, 1))  # a copy has another time
        self.assertEqual(files.sample(self.paths, self.sizes), before)
        for file, at in ((0, 0), (0, 25_001), (2, 299), (3, 10_000)):
            self.flip(file, at)
            self.assertNotEqual(files.sample(self.paths, self.sizes), before)
            self.flip(file, at)
        self.assertEqual(files.sample(self.paths, self.sizes), before)

    def test_a_bound_for_large_ones(self):
        opened = mock.patch.object(files, "_opened", wraps=files._opened)
        with mock.patch.multiple(files, WHOLE_BYTES=10_000, READS=5), opened as opening:
            before = files.sample(self.paths, self.sizes)
            self.assertLessEqual(opening.call_count, 5)
            self.flip(3, 19_999)  # the end of a file
            self.assertNotEqual(files.sample(self.paths, self.sizes), before)

    def test_what_cannot_be_read_is_no_error(self):
        self.assertLen(files.sample(["/nowhere/1.png", self.paths[2]], [-1, 300]), 16)
        self.assertLen(files.sample([], []), 16)


if __name__ == "__main__":
    absltest.main()
