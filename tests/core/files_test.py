"""Files that others read while they are written."""

from pathlib import Path
from unittest import mock

from absl.testing import absltest

from ssl_jax.core import files
from ssl_jax.core.errors import UserError


class FilesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(self):
        path = self.folder / "a.txt"
        files.write_text(path, "old")
        with files.replacing(path) as temporary:
            temporary.write_text("new")
            self.assertEqual(path.read_text(), "old")
        self.assertEqual(path.read_text(), "new")
        self.assertEqual([p.name for p in self.folder.iterdir()], ["a.txt"])

    def test_what_fails_leaves_the_old_file_and_nothing_else(self):
        path, other = self.folder / "a.txt", self.folder / "b"
        files.write_text(path, "old")
        with self.assertRaises(KeyboardInterrupt), files.replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
        with self.assertRaises(ValueError), files.replacing(other) as temporary:
            temporary.mkdir()
            (temporary / "x").touch()
            raise ValueError
        self.assertEqual(path.read_text(), "old")
        self.assertEqual([p.name for p in self.folder.iterdir()], ["a.txt"])

    def test_two_writers_do_not_mix(self):
        path = self.folder / ("x" * 250)
        with files.replacing(path) as first, files.replacing(path) as second:
            self.assertNotEqual(first, second)
            first.write_text("first")
            second.write_text("second")
        self.assertEqual(path.read_text(), "first")  # the last to finish
        self.assertLen(list(self.folder.iterdir()), 1)

    def test_what_is_written_is_on_the_disk_before_it_takes_its_place(self):
        with mock.patch("os.fsync") as synced:
            with files.replacing(self.folder / "a") as temporary:
                temporary.write_text("x")
                synced.assert_not_called()
            self.assertEqual(synced.call_count, 2)  # the file, and its folder

    def test_a_text_that_is_no_utf8(self):
        files.write_text(self.folder / "a", "\udcff")
        self.assertEqual((self.folder / "a").read_text(), "\\udcff")

    def test_a_folder_is_held_by_one(self):
        def held(name):
            with files.locked(self.folder / name, "cannot", "is held"):
                return True

        with files.locked(self.folder / "a", "", ""), self.assertRaisesRegex(UserError, "^is held"):
            held("a")
        self.assertTrue(held("a"))
        (self.folder / "file").touch()
        with self.assertRaisesRegex(UserError, "^cannot: File exists$"):
            held("file")


if __name__ == "__main__":
    absltest.main()
