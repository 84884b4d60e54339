import time
from pathlib import Path

from absl.testing import absltest

from ssl_jax.train.checkpoint import Checkpoints


class CheckpointTest(absltest.TestCase):
    def test_a_reader_leaves_what_is_being_written(self):
        folder = Path(self.create_tempdir().full_path)
        half = folder / "4.orbax-checkpoint-tmp"
        half.mkdir()
        with Checkpoints(folder, reader=True) as checkpoints:
            self.assertEqual(checkpoints.steps, [])
        self.assertTrue(half.exists())
        with Checkpoints(folder):
            pass
        deadline = time.monotonic() + 30
        while half.exists():  # orbax clears in the background
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)


if __name__ == "__main__":
    absltest.main()
