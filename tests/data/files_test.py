from pathlib import Path

import fsspec
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
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
            found = matching("scheme", root + pattern, "*.parquet")
            self.assertEqual(found, sorted(found))
            self.assertEqual({size_and_time("scheme", f)[0] for f in found}, {1})
            self.assertTrue(all(f.startswith(root) and "//" not in f[10:] for f in found), found)
            self.assertEqual("".join(sorted(Path(f).stem for f in found)), want)

    def test_a_store_that_nothing_knows(self):
        with self.assertRaisesRegex(UserError, "nowhere://x/y: cannot be opened"):
            remote_filesystem("parquet", "nowhere://x/y")


if __name__ == "__main__":
    absltest.main()
