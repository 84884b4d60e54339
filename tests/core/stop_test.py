"""Signals to a process that is alone; several processes: tests/faults."""

import contextlib
import io
import os
import signal
import threading
import time
from pathlib import Path

from absl.testing import absltest

from ssl_jax.core.stop import Stop
from ssl_jax.core.watch import INTERRUPTED, PREEMPTED


class StopTest(absltest.TestCase):
    def asked(self, number):
        err = io.StringIO()
        with contextlib.redirect_stderr(err), Stop() as stop:
            self.assertFalse(stop.due(3))
            os.kill(os.getpid(), number)
            deadline = time.monotonic() + 30
            while not stop.due(4):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.001)
        return stop.code, err.getvalue()

    def test_sigterm(self):
        code, said = self.asked(signal.SIGTERM)
        self.assertEqual(code, PREEMPTED)
        self.assertIn("ssl-jax: asked to end", said)

    def test_ctrl_c(self):
        code, said = self.asked(signal.SIGINT)
        self.assertEqual(code, INTERRUPTED)
        self.assertIn("Ctrl-C ends at once", said)

    def test_what_was_before_is_there_again(self):
        seen = []
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.signal(number, lambda number, frame: seen.append(number))
            self.addCleanup(signal.signal, number, handler)
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        self.asked(signal.SIGTERM)
        self.assertEqual(signal.set_wakeup_fd(-1), -1)
        self.assertLen(list(Path("/proc/self/fd").iterdir()), descriptors)
        self.assertNotIn("stop", [t.name for t in threading.enumerate()])
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(seen, [signal.SIGINT, signal.SIGTERM])

    def test_another_thread_is_left_alone(self):
        found = []

        def work():
            with Stop() as stop:
                found.append(stop.due(0))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual(found, [False])


if __name__ == "__main__":
    absltest.main()
