"""Standard output that is full, closed or left by its reader."""

import contextlib
import io

from absl.testing import absltest
from rich.console import Console

from ssl_jax.core.streams import Enduring


class Full(io.StringIO):
    """Stream that refuses writes while it is full."""

    full = True

    def write(self, text):
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


class Gone(io.StringIO):
    """Stream whose reader has gone."""

    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")


class StreamsTest(absltest.TestCase):
    def test_a_full_one_is_told_once_and_tried_again(self):
        below, err = Full(), io.StringIO()
        out = Enduring(below, "standard output")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            print("one")
            Console().print("two")
            below.full = False
            print("three", flush=True)
        self.assertEqual(below.getvalue(), "three\n")
        self.assertEqual(out.error.errno, 28)
        self.assertRegex(
            err.getvalue(), "^ssl-jax: standard output: No space left on device; .*\n$"
        )

    def test_a_closed_one(self):
        below = io.StringIO()
        below.close()
        out = Enduring(below)
        out.write("x")
        out.writelines(["y"])
        out.flush()
        self.assertIsNone(out.error)

    def test_the_reader_has_gone(self):
        err = io.StringIO()
        out = Enduring(Gone(), "standard output")
        with contextlib.redirect_stderr(err):
            print("x", file=out, flush=True)
        self.assertIsInstance(out.error, BrokenPipeError)
        self.assertEqual(err.getvalue(), "")


if __name__ == "__main__":
    absltest.main()
