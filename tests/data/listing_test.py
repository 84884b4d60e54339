import os
import time
from pathlib import Path
from unittest import mock

from absl.testing import absltest

from ssl_jax.data import listing

OLD = time.time() - 100


class ListingTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.object(listing, "CACHED_FROM", 2))
        place = self.create_tempdir().full_path
        self.enterContext(mock.patch.dict(os.environ, {"SSL_JAX_CACHE": place}))
        self.root = Path(self.create_tempdir().full_path)
        for name in ("b/1.png", "a/deep/2.JPG", "a/note.txt"):
            self.add(name)

    def add(self, name):
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        self.age()

    def age(self):
        for folder, _, _ in os.walk(self.root, followlinks=True):
            os.utime(folder, (OLD, OLD))

    def paths(self):
        return listing.image_files(str(self.root), "set").paths

    def walks(self):
        return mock.patch.object(listing, "_walk", wraps=listing._walk)

    def test_a_second_look_walks_no_folder(self):
        first = self.paths()
        self.assertEqual(first, ["a/deep/2.JPG", "b/1.png"])
        with self.walks() as walk:
            self.assertEqual(self.paths(), first)
        walk.assert_not_called()

    def test_every_change_of_a_folder_is_seen(self):
        self.paths()

        def change(path):
            os.utime(self.root / path, (OLD + 1, OLD + 1))

        (self.root / "a/deep/3.png").write_bytes(b"x")
        self.age()
        change("a/deep")
        self.assertIn("a/deep/3.png", self.paths())
        (self.root / "b/1.png").rename(self.root / "b/9.png")
        self.age()
        change("b")
        self.assertIn("b/9.png", self.paths())
        (self.root / "b/9.png").unlink()
        (self.root / "b").rmdir()
        self.assertEqual(self.paths(), ["a/deep/2.JPG", "a/deep/3.png"])

    def test_a_folder_that_has_just_changed_is_not_trusted(self):
        os.utime(self.root / "b")
        self.paths()
        with self.walks() as walk:
            self.paths()
        walk.assert_called_once()

    def test_a_linked_folder_is_watched_too(self):
        other = Path(self.create_tempdir().full_path)
        (other / "x.png").write_bytes(b"x")
        (self.root / "link").symlink_to(other)
        self.age()
        self.assertIn("link/x.png", self.paths())
        (other / "y.png").write_bytes(b"x")
        self.assertIn("link/y.png", self.paths())

    def test_other_files_are_counted_by_their_ending(self):
        for name in ("a/x.heic", "a/y.HEIC", "b/z.jfif", "b/plain"):
            self.add(name)
        (self.root / "gone.png").symlink_to("/nowhere/gone.png")
        self.age()
        for _ in range(2):  # walked, and remembered
            paths, others = listing.image_files(str(self.root), "set")
            self.assertEqual(paths, ["a/deep/2.JPG", "b/1.png", "b/z.jfif"])
            want = {".heic": 2, ".txt": 1, "no ending": 1, "broken links": 1}
            self.assertEqual(dict(others), want)
        (why,) = listing.count_other_files(others, (".txt",))
        self.assertEqual(why, "files with other endings (2 .heic, 1 broken links, 1 no ending)")

    def test_endings_that_pillow_reads_are_taken(self):
        for end in (".jfif", ".jpe", ".avif", ".jp2", ".pgm", ".dib", ".webp"):
            self.assertIn(end, listing.EXTENSIONS)
        self.assertNotIn(".eps", listing.EXTENSIONS)  # it would be run

    def test_few_images_are_not_cached(self):
        with mock.patch.object(listing, "CACHED_FROM", 3):
            self.paths()
        with self.walks() as walk:
            self.paths()
        walk.assert_called_once()


if __name__ == "__main__":
    absltest.main()
