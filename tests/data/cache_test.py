import os
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.data import cache


class CacheTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        patch = mock.patch.dict(os.environ, {"SSL_JAX_CACHE": str(self.root / "c")})
        self.enterContext(patch)

    def test_what_is_saved_is_loaded_and_replaced(self):
        self.assertIsNone(cache.load("kind", "key"))
        for value in (3, 4):
            cache.save("kind", "key", x=np.arange(value), y=np.float32(1))
            np.testing.assert_array_equal(cache.load("kind", "key")["x"], np.arange(value))
        self.assertIsNone(cache.load("kind", "other"))
        self.assertIsNone(cache.load("other", "key"))
        self.assertLen(list(self.root.rglob("*.*")), 1)  # nothing temporary is left

    def test_a_user_without_a_home_has_no_cache(self):
        error = RuntimeError("Could not determine home directory.")
        with (
            mock.patch.dict(os.environ, {"SSL_JAX_CACHE": "", "XDG_CACHE_HOME": ""}),
            mock.patch.object(Path, "expanduser", side_effect=error),
        ):
            cache.save("kind", "key", x=np.arange(3))
            self.assertIsNone(cache.load("kind", "key"))

    def test_a_broken_entry_is_none_and_an_unwritable_place_is_no_error(self):
        cache.save("kind", "key", x=np.arange(3))
        (file,) = self.root.rglob("*.npz")
        whole = file.read_bytes()
        for data in (b"", whole[:50], b"x" * 50, whole[:-40]):
            file.write_bytes(data)
            self.assertIsNone(cache.load("kind", "key"))
        with mock.patch.dict(os.environ, {"SSL_JAX_CACHE": str(file)}):  # a file, not a folder
            cache.save("kind", "key", x=np.arange(3))
            self.assertIsNone(cache.load("kind", "key"))

    def test_pickled_arrays_are_not_loaded(self):
        cache.save("kind", "key", x=np.arange(3))
        (file,) = self.root.rglob("*.npz")
        np.savez(file, x=np.array([{}, None]))
        self.assertIsNone(cache.load("kind", "key"))

    @parameterized.parameters([[]], [["a"]], [["a/b c.png", "", "é\udcff", "z"]])
    def test_pack(self, strings):
        self.assertEqual(cache.unpack(cache.pack(strings)), strings)

    def test_folder(self):
        with mock.patch.dict(os.environ, {"SSL_JAX_CACHE": "", "XDG_CACHE_HOME": "/x"}):
            self.assertEqual(cache.folder(), Path("/x/ssl_jax"))
        with mock.patch.dict(os.environ, {"SSL_JAX_CACHE": "", "XDG_CACHE_HOME": ""}):
            self.assertEqual(cache.folder(), Path.home() / ".cache" / "ssl_jax")


if __name__ == "__main__":
    absltest.main()
