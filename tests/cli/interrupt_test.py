"""Ctrl-C while a command looks at a run."""

import contextlib
import io
import os
import signal
import time
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from ssl_jax import cli
from ssl_jax.cli import report, translate
from ssl_jax.core.errors import AtOnce
from ssl_jax.core.watch import INTERRUPTED
from ssl_jax.run.commands import embed, evaluate

AT_WORK = {
    "evaluate": (evaluate, "measure"),
    "report": (report, "examine"),
    "embed": (embed, "load"),
    "translate": (translate, "load"),
}


def interrupted(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)


class InterruptTest(parameterized.TestCase):
    @parameterized.parameters(*AT_WORK)
    def test_it_ends_at_once(self, name):
        run = Path(self.create_tempdir().full_path)
        (run / "config.json").write_text('{"objective": {"name": "simclr"}}')
        writes = name in ("embed", "translate")
        more = ("--data=digits", f"--output={run}/e.npz") if writes else ()
        err, begun = io.StringIO(), time.monotonic()
        with (
            mock.patch.object(*AT_WORK[name], interrupted),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(err),
        ):
            code = cli.run([name, f"--workdir={run}", *more])
        self.assertIsInstance(code, AtOnce)
        self.assertEqual(code, INTERRUPTED)
        self.assertLess(time.monotonic() - begun, 20)
        self.assertNotIn("Traceback", err.getvalue())


if __name__ == "__main__":
    absltest.main()
