"""One-line messages of system errors."""

import errno
import os

from absl.testing import absltest

from ssl_jax.core import errors


class ErrorsTest(absltest.TestCase):
    def line(self, number, *names):
        return errors.of_system(OSError(number, os.strerror(number), *names))

    def test_who_can_mend_it(self):
        self.assertEqual(self.line(errno.ENOSPC, "/a"), ("/a: No space left on device", 2))
        self.assertEqual(self.line(errno.EIO, "/a"), ("/a: Input/output error", 1))
        self.assertEqual(self.line(errno.EXDEV, "/a", None, "/b")[0][:8], "/a -> /b")
        self.assertEqual(self.line(errno.ECONNRESET)[1], 1)
        self.assertIsNone(errors.of_system(OSError("a library's")))

    def test_near_names(self):
        known = ("knn", "linear", "simCLR")
        for name, near in (("KNN", "knn"), ("simclr", "simCLR"), ("liner", "linear")):
            self.assertEqual(errors.suggest(name, known), f"did you mean '{near}'?")
        self.assertEqual(errors.suggest("x", known), "known: knn, linear, simCLR")

    def test_names_are_short_and_steer_nothing(self):
        line, code = self.line(errno.ENAMETOOLONG, "/a\n\x1b" + "x" * 300)
        self.assertEqual(code, 2)
        self.assertLess(len(line), 150)
        self.assertTrue(line.isprintable())


if __name__ == "__main__":
    absltest.main()
