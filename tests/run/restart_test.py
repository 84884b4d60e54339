"""Restarts: which exit codes lead to one, and when it gives up."""

import contextlib
import io
import signal
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from ssl_jax.core.watch import LOST
from ssl_jax.run import restart


class RestartTest(parameterized.TestCase):
    def run_with(self, codes, times=2, saves=(), terminated=False):
        """Return the exit code, the number of attempts and the messages, if attempt i ends with
        `codes[i]` and leaves a checkpoint of step i + 1 if that is in `saves`.
        """
        folder = Path(self.create_tempdir().full_path)
        attempts = []

        def child(command, env):
            self.assertEqual(command[-3:], ["train", "--workdir=W", "--restarts=2"])
            attempts.append(command)
            if len(attempts) in saves:
                path = folder / "checkpoints" / str(len(attempts)) / "manifest.json"
                path.parent.mkdir(parents=True)
                path.touch()
            return codes[len(attempts) - 1], terminated

        err = io.StringIO()
        with (
            mock.patch.object(restart, "_child", child),
            mock.patch.object(restart, "PAUSE", 0.0),
            contextlib.redirect_stderr(err),
        ):
            code = restart.until_done(["train", "--workdir=W", "--restarts=2"], folder, times)
        return code, len(attempts), err.getvalue().splitlines()

    def test_a_launcher_that_is_told_to_end_does_not_restart(self):
        self.assertEqual(self.run_with([LOST], terminated=True), (LOST, 1, []))

    @parameterized.parameters((0, 0), (2, 2), (130, 130))
    def test_an_end_that_is_final(self, ended, code):
        self.assertEqual(self.run_with([ended]), (code, 1, []))

    def test_again_until_it_is_done(self):
        code, attempts, lines = self.run_with([LOST, -signal.SIGKILL, 0])
        self.assertEqual((code, attempts), (0, 3))
        self.assertIn(
            "restarting from step 0 (exit code 75, asked to end, or another process was lost)",
            lines[0],
        )
        self.assertIn("killed; out of memory, perhaps", lines[1])

    def test_given_up_without_progress(self):
        code, attempts, lines = self.run_with([1] * 9)
        self.assertEqual((code, attempts), (1, 3))
        self.assertIn("gave up after 2 restart(s) without a newer checkpoint", lines[-1])

    def test_progress_counts_anew(self):
        code, attempts, lines = self.run_with([1] * 9, saves=(2, 4))
        self.assertEqual((code, attempts), (1, 6))
        self.assertIn("restarting from step 4", lines[3])

    def test_none_allowed(self):
        code, attempts, _ = self.run_with([-signal.SIGABRT], times=0)
        self.assertEqual((code, attempts), (134, 1))


if __name__ == "__main__":
    absltest.main()
