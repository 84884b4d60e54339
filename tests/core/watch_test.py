"""Verdicts of process 0 about the signs of life of all processes."""

import time
from unittest import mock

from absl.testing import absltest

from ssl_jax.core import watch
from ssl_jax.core.watch import LOST, Limits, Watch


class Store:
    """Stand-in for the part of JAX's key-value store that a watch uses."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value, allow_overwrite=False):
        self.values[key] = value

    def key_value_dir_get(self, key):
        return [(k, v) for k, v in self.values.items() if k.startswith(key)]


class WatchTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.time = 1000.0
        self.enter_context(mock.patch.object(time, "monotonic", lambda: self.time))
        store = Store()
        self.watches = [Watch(store, i, 3, Limits(300, 60, 600)) for i in range(3)]

    def judge(self, *alive, after):
        """Return the verdict `after` seconds in which the processes `alive` reported."""
        self.time += after
        for process in alive:
            self.watches[process]._tell({})
        return self.watches[0]._judge()

    def test_all_live(self):
        for _ in range(5):
            self.assertIsNone(self.judge(0, 1, 2, after=50))

    def test_a_silent_process(self):
        self.watches[2].doing = (7, "data", self.time)
        self.assertIsNone(self.judge(0, 1, 2, after=1))
        self.assertIsNone(self.judge(0, 1, after=50))
        message, code = self.judge(0, 1, after=50)
        self.assertRegex(message, "process 2 .* silent for 60 s; it was at data of step 7")
        self.assertEqual(code, LOST)

    def test_a_process_that_never_reported(self):
        self.assertIsNone(self.judge(0, 1, after=1))
        message, _ = self.judge(0, 1, after=61)
        self.assertIn("process 2 (not heard from yet)", message)

    def test_a_straggler_is_named(self):
        for process, what in enumerate(("step", "data", "step")):
            self.watches[process].doing = (7, what, self.time)
        for _ in range(12):
            self.assertIsNone(self.judge(0, 1, 2, after=50))
        message, code = self.judge(0, 1, 2, after=50)
        self.assertRegex(message, "no progress for 600 s: process 1 .* still at data of step 7")
        self.assertEqual(code, LOST)

    def test_slow_is_not_stuck(self):
        for _ in range(30):
            for process in (0, 2):
                self.watches[process].doing = (7, "step", 1000.0)
            self.watches[1].doing = (7, "evaluate", self.time)
            self.assertIsNone(self.judge(0, 1, 2, after=50))

    def test_an_error_ends_all_with_its_code(self):
        self.judge(0, 1, 2, after=1)
        self.watches[1]._tell({"failed": "too many broken images", "code": watch.FINAL})
        message, code = self.judge(0, 2, after=1)
        self.assertRegex(message, "process 1 .* ended: too many broken images")
        self.assertEqual(code, watch.FINAL)

    def test_who_is_done_may_be_silent(self):
        self.judge(0, 1, 2, after=1)
        self.watches[1]._tell({"done": True})
        self.assertIsNone(self.judge(0, 2, after=100))
        self.assertIsNone(self.judge(0, 2, after=50))


if __name__ == "__main__":
    absltest.main()
