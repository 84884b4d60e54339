"""Clips of digits that move over photographs."""

from functools import cache

import numpy as np
from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import held_out, open_source
from ssl_jax.data.sources.moving_digits import RATE, ROOM, SAMPLES


@cache
def source():
    return held_out("moving_digits")


class MovingDigitsTest(absltest.TestCase):
    def test_the_flow_takes_the_background_to_the_next_frame(self):
        for index in range(20):
            for frame in range(15):
                here, there = (source().read_frame(index, t) for t in (frame, frame + 1))
                at = np.argwhere(np.ones(here.shape[:2]))
                to = at + source().read_flow(index, frame)[*at.T].astype(int)
                inside = np.all((to >= 0) & (to < 32), axis=1)
                same = np.all(here[*at[inside].T] == there[*to[inside].T], axis=1)
                # All but what the digit covers, which is at most its own area.
                self.assertGreaterEqual(same.sum(), inside.sum() - source().read_mask(index).sum())

    def test_the_digit_moves_exactly_and_the_mask_is_where_it_is(self):
        for index in range(20):
            mask = source().read_mask(index).astype(bool)
            flow = source().read_flow(index, 8)
            self.assertLen(np.unique(flow[mask], axis=0), 1)
            here, there = source().read_frame(index, 8), source().read_frame(index, 9)
            at = np.argwhere(mask)
            to = at + flow[mask][0].astype(int)
            np.testing.assert_array_equal(here[*at.T], there[*to.T])
            np.testing.assert_array_equal(source().read(index), here)

    def test_the_pitch_is_the_height(self):
        for index in range(10):
            track, rate = source().read_sound(index)
            self.assertEqual((rate, track.dtype, len(track)), (RATE, np.int16, 16 * SAMPLES))
            part = track[8 * SAMPLES : 9 * SAMPLES].astype(float)
            crossings = np.count_nonzero(np.diff(np.signbit(part)))
            (y, _), (later, _) = source()._place(index, np.array([8, 9]))
            pitch = 400 * 4 ** (1 - (y + later) / 2 / ROOM)
            self.assertLess(abs(crossings * RATE / SAMPLES / 2 - pitch), 0.05 * pitch + 16)

    def test_motion_and_sound_do_not_tell_the_class(self):
        one, labels = source(), source().labels
        for values in (one._velocity, one._start, one._pan, one._colors, one._corner):
            means = np.stack([values[labels == c].mean(0) for c in range(10)])
            spread = values.std(0) / np.sqrt(36)  # of the mean of 36 clips
            self.assertLess(np.abs((means - values.mean(0)) / spread).max(), 4)

    def test_batches_have_frames_flow_sound_and_masks(self):
        view = View(16, area=(1, 1))
        inputs = Inputs((view,), frames=4, flow=True, sound=4 * SAMPLES, masks=True)
        options = {"global_batch": 4, "seed": 1, "stop_step": 3}
        steps = list(batches(source(), inputs, **options))
        (again,) = batches(source(), inputs, start_step=2, **options)
        batch = steps[2]
        shapes = inputs.shapes(4, 3)
        for name in ("frames", "flow", "sound"):
            np.testing.assert_array_equal(batch[name], again[name])
            self.assertEqual(batch[name].shape, shapes[name].shape)
            self.assertEqual(batch[name].dtype, shapes[name].dtype)
        self.assertEqual(batch["masks"][0].shape, (4, 1, 16, 16))
        flow = batch["flow"]
        self.assertTrue(np.all(flow * 2 == np.round(flow * 2)))  # half-size crops: half the motion
        self.assertGreater(np.abs(flow).max(), 0)

    def test_parts_show_different_digits_and_backgrounds(self):
        train, evaluation = open_source("moving_digits"), source()
        self.assertEqual((len(train), len(evaluation)), (1437, 360))
        self.assertFalse(train.matches(evaluation.fingerprint()))
        self.assertTrue(evaluation.matches(held_out("moving_digits").fingerprint()))

    def test_a_path_is_an_error(self):
        with self.assertRaisesRegex(UserError, "moving_digits takes no path"):
            open_source("moving_digits:/tmp")


if __name__ == "__main__":
    absltest.main()
