"""Signals to a single process; tests/faults covers several processes."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from absl.testing import absltest

from ssl_jax.core.errors import AtOnce
from ssl_jax.core.stop import Interrupted, Stop, interruptible
from ssl_jax.core.watch import INTERRUPTED, PREEMPTED


class StopTest(absltest.TestCase):
    def send(self, number):
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
        code, output = self.send(signal.SIGTERM)
        self.assertEqual(code, PREEMPTED)
        self.assertIn("ssl-jax: asked to end", output)

    def test_ctrl_c(self):
        code, output = self.send(signal.SIGINT)
        self.assertEqual(code, INTERRUPTED)
        self.assertIn("Ctrl-C ends at once", output)

    def test_a_region_is_cut_short_once(self):
        for number, code in ((signal.SIGTERM, PREEMPTED), (signal.SIGINT, INTERRUPTED)):
            err, after = io.StringIO(), []
            with contextlib.redirect_stderr(err), Stop() as stop:
                with self.assertRaises(Interrupted), stop.region("nothing is saved"):
                    os.kill(os.getpid(), number)
                    time.sleep(30)
                self.assertEqual(stop.code, code)
                with self.assertRaises(Interrupted):  # the request is remembered
                    stop.check()
                with self.assertRaises(Interrupted), stop.region("likewise"):
                    after.append("entered")
                deadline = time.monotonic() + 30
                while "nothing is saved" not in err.getvalue():
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.001)
            self.assertEqual(after, [])

    def test_what_follows_a_region_is_not_cut_short(self):
        with contextlib.redirect_stderr(io.StringIO()), Stop() as stop:
            with self.assertRaises(Interrupted), stop.region("saved first"):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(30)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # a save
            self.assertEqual(stop.code, PREEMPTED)

    def test_a_main_thread_that_does_not_hear_is_left(self):
        """Another thread saves everything and ends the process."""
        script = (
            "import hashlib, os, signal, threading\n"
            "from ssl_jax.core.stop import Stop\n"
            "with Stop() as stop, stop.region('saved first', lambda: print('saved', flush=True)):\n"
            "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
            "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"  # minutes in C
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
        )
        self.assertEqual(done.returncode, PREEMPTED, done.stderr)
        self.assertEqual(done.stdout, "saved\n")
        self.assertIn("asked to end; saved first", done.stderr)

    def test_patient_work_that_ends_in_time_is_finished(self):
        left = []
        with contextlib.redirect_stderr(io.StringIO()), Stop() as stop:
            with stop.region("or later", lambda: left.append(True), patient=True):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                finished = True
            with self.assertRaises(Interrupted), stop.region("or later", patient=True):
                finished = False
        self.assertEqual((finished, left), (True, []))

    def test_patient_work_that_does_not_is_left(self):
        script = (
            "import os, signal, time\n"
            "from ssl_jax.core import stop\n"
            "stop.GRACE = 0.2\n"
            "leave = lambda: print('saved', flush=True)\n"
            "with stop.Stop() as ending, ending.region('or later', leave, patient=True):\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n"
            "    time.sleep(100)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=90
        )
        self.assertEqual((done.returncode, done.stdout), (PREEMPTED, "saved\n"), done.stderr)

    def test_a_command_that_loses_nothing_ends_at_once(self):
        with (
            contextlib.redirect_stderr(io.StringIO()),
            self.assertRaises(SystemExit) as end,
            interruptible("nothing is lost"),
        ):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        self.assertIsInstance(end.exception.code, AtOnce)
        self.assertEqual(end.exception.code, INTERRUPTED)

    def test_what_was_before_is_there_again(self):
        received = []
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.signal(number, lambda number, frame: received.append(number))
            self.addCleanup(signal.signal, number, handler)
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        self.send(signal.SIGTERM)
        self.assertEqual(signal.set_wakeup_fd(-1), -1)
        self.assertLen(list(Path("/proc/self/fd").iterdir()), descriptors)
        self.assertNotIn("stop", [t.name for t in threading.enumerate()])
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(received, [signal.SIGINT, signal.SIGTERM])

    def test_another_thread_is_left_alone(self):
        due = []

        def work():
            with Stop() as stop:
                due.append(stop.due(0))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual(due, [False])


if __name__ == "__main__":
    absltest.main()
