"""Images and masks of what moves, written from clips."""

from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data import moving
from ssl_jax.data.pipeline import batches
from ssl_jax.data.prepare import Shards
from ssl_jax.data.sources import ArraySource, held_out, open_source
from ssl_jax.data.subset import Subset


def halves(frames):
    """Masks whose left half moves; none for a clip that starts dark."""
    masks = np.zeros(frames.shape[:3], np.uint8)
    masks[:, :, :16] = 1
    return masks


class MovingTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.output = Path(self.create_tempdir().full_path) / "out"
        self.clips = Subset(held_out("moving_digits"), np.arange(3), "clips")

    def test_writes_a_folder_that_trains(self):
        with mock.patch.object(moving, "segment", side_effect=[halves, None, halves]) as segment:
            segment.side_effect = lambda frames: None if segment.call_count == 2 else halves(frames)
            manifest = moving.prepare_masks(self.clips, self.output, Shards())
        self.assertEqual(manifest["examples"], 32)
        self.assertLen(manifest["left_out"], 1)
        self.assertRegex(manifest["left_out"][0], "no dominant motion")
        source = open_source(f"folder:{self.output}/images")
        self.assertEqual(len(source), 32)
        inputs = Inputs((View(32, area=(1, 1)),), masks=True)
        (batch,) = batches(source, inputs, global_batch=32, seed=0, stop_step=1)
        np.testing.assert_array_equal(batch["masks"][0].mean((1, 2, 3)), np.full(32, 0.5))

    def test_continues_where_it_was_interrupted(self):
        stop = [halves, halves, KeyboardInterrupt]

        def interrupted(frames):
            step = stop.pop(0)
            if step is KeyboardInterrupt:
                raise KeyboardInterrupt
            return step(frames)

        with (
            mock.patch.object(moving, "segment", interrupted),
            self.assertRaises(KeyboardInterrupt),
        ):
            moving.prepare_masks(self.clips, self.output, Shards())
        with mock.patch.object(moving, "segment", side_effect=halves) as segment:
            manifest = moving.prepare_masks(self.clips, self.output, Shards())
            self.assertEqual((segment.call_count, manifest["examples"]), (1, 48))
            self.assertEqual(moving.prepare_masks(self.clips, self.output, Shards()), manifest)
            with self.assertRaisesRegex(UserError, "holds other data or options"):
                moving.prepare_masks(self.clips, self.output, Shards(size=16))

    def test_bad(self):
        with self.assertRaisesRegex(UserError, "masks of motion need clips, and photos holds"):
            moving.prepare_masks(held_out("photos"), self.output, Shards())

        class Short(ArraySource):
            lengths = np.array([3, 9])

        short = Short("short", np.zeros((2, 8, 8, 3), np.uint8))
        message = "longest clip of short has 9 frames; masks of motion need at least 10"
        with self.assertRaisesRegex(UserError, message):
            moving.prepare_masks(short, self.output, Shards())
        with (
            mock.patch.object(moving, "segment", return_value=None),
            self.assertRaisesRegex(UserError, "no clip has masks of motion; the first: .*dominant"),
        ):
            moving.prepare_masks(self.clips, self.output, Shards())


if __name__ == "__main__":
    absltest.main()
