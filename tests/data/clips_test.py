import wave
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.core.inputs import Inputs, View
from ssl_jax.data.clips import Clips
from ssl_jax.data.pipeline import batches
from ssl_jax.data.sources import ArraySource, open_source

WHOLE = View(4, area=(1, 1))


class ClipsTest(parameterized.TestCase):
    def source(self, *lengths, broken=()):
        """Frame t of clip c is (c, t, x) everywhere, x the column; frames are 12 x 16."""
        root = Path(self.create_tempdir().full_path) / "frames"
        root.mkdir()
        for c, length in enumerate(lengths):
            (root / f"{c:02}").mkdir()
            for t in range(length):
                pixels = np.zeros((12, 16, 3), np.uint8)
                pixels[..., 0], pixels[..., 1], pixels[..., 2] = c, t, np.arange(16) * 10
                Image.fromarray(pixels).save(root / f"{c:02}" / f"{t}.png")
                if (c, t) in broken:
                    (root / f"{c:02}" / f"{t}.png").write_bytes(b"broken")
        return open_source(f"frames:{root}")

    def test_consecutive_frames_from_every_place(self):
        clips = Clips(self.source(7, 5), Inputs((WHOLE,), frames=3), 3, seed=0)
        starts = set()
        for epoch in range(40):
            frames = clips.read(0, epoch)["frames"]
            self.assertEqual((frames.shape, frames.dtype), ((3, 4, 4, 3), np.uint8))
            self.assertEqual(set(frames[..., 0].flat), {0})
            start = int(frames[0, 0, 0, 1])
            np.testing.assert_array_equal(frames[:, 0, 0, 1], start + np.arange(3))
            starts.add(start)
        self.assertEqual(starts, set(range(5)))

    def test_a_short_clip_holds_its_last_frame(self):
        clips = Clips(self.source(2, 4), Inputs((WHOLE,), frames=4), 3, seed=0)
        for epoch in range(3):
            np.testing.assert_array_equal(clips.read(0, epoch)["frames"][:, 0, 0, 1], [0, 1, 1, 1])

    def test_only_short_clips(self):
        with self.assertRaisesRegex(UserError, "longest clip has 3 frames, .* needs 4; ") as caught:
            Clips(self.source(2, 3), Inputs((WHOLE,), frames=4), 3, seed=0)
        self.assertNotIn("\n", str(caught.exception))

    def test_one_crop_for_all_frames_another_each_epoch(self):
        view = View(4, area=(0.1, 0.5))
        clips = Clips(self.source(4), Inputs((view,), frames=4), 3, seed=0)
        columns = set()
        for epoch in range(5):
            frames = clips.read(0, epoch)["frames"]
            self.assertLen({f[..., 2].tobytes() for f in frames}, 1)
            columns.add(frames[0, ..., 2].tobytes())
        self.assertLen(columns, 5)

    def test_a_broken_frame_replaces_the_clip_only_where_it_is_in_the_place(self):
        source = self.source(6, 6, 6, 6, 6, 6, 6, 6, broken=[(2, 5)])
        clips = Clips(source, Inputs((WHOLE,), frames=3), 3, seed=0)
        clips_read = set()
        for epoch in range(30):
            frames = clips.read(2, epoch)["frames"]
            clip, start = int(frames[0, 0, 0, 0]), int(frames[0, 0, 0, 1])
            self.assertLen(set(frames[..., 0].flat), 1)
            self.assertEqual(clip == 2, start < 3)
            clips_read.add(clip)
        self.assertLen(clips_read, 2)  # itself, and always the same other one

    def test_in_a_batch(self):
        source = self.source(5, 4, 3, 6)
        inputs = Inputs((View(6, 2), WHOLE), frames=2, label=True)
        options = {"global_batch": 4, "seed": 3, "stop_step": 2}
        whole = list(batches(source, inputs, threads=2, **options))
        rows = np.split(np.arange(4), 2)
        halves = [list(batches(source, inputs, rows=mine, **options)) for mine in rows]
        for step, batch in enumerate(whole):
            self.assertEqual(batch["frames"].shape, (4, 2, 6, 6, 3))
            np.testing.assert_array_equal(batch["frames"][:, 0, 0, 0, 0], batch["index"])
            np.testing.assert_array_equal(batch["views"][1][:, 0, 0, 0, 0], batch["index"])
            both = np.concatenate([half[step]["frames"] for half in halves])
            np.testing.assert_array_equal(both, batch["frames"])
        (again,) = batches(source, inputs, start_step=1, **options)
        np.testing.assert_array_equal(again["frames"], whole[1]["frames"])

    def sounded(self, *lengths, rate=100, channels=1):
        """Sample s of a track of 10 per frame is s, and 200 more in a second channel."""
        source = self.source(*lengths)
        root = Path(source.describe(0)).parent.parent
        (root / "audio").mkdir()
        for c, length in enumerate(lengths):
            track = np.arange(10 * length)[:, None] + 200 * np.arange(channels)
            self.write(root / f"audio/{c:02}.wav", track, rate)
        return open_source(f"frames:{root / 'frames'}")

    def write(self, file, track, rate=100):
        with wave.open(str(file), "wb") as out:
            out.setparams((track.shape[1], 2, rate, 0, "NONE", ""))
            out.writeframes(track.astype("<i2").tobytes())

    @parameterized.parameters(1, 2)
    def test_sound_starts_with_the_first_frame(self, channels):
        inputs = Inputs((WHOLE,), frames=2, sound=25)
        clips = Clips(self.sounded(7, 5, channels=channels), inputs, 3, seed=0)
        for epoch in range(10):
            clip = clips.read(0, epoch)
            start = int(clip["frames"][0, 0, 0, 1])
            want = np.arange(10 * start, 10 * start + 25)
            want = np.where(want < 70, want + 100 * (channels - 1), 0)
            self.assertEqual(clip["sound"].dtype, np.int16)
            np.testing.assert_array_equal(clip["sound"], want)

    def test_sound_without_frames(self):
        source = self.sounded(7, 5, 6)
        inputs = Inputs((WHOLE,), sound=20)
        (batch,) = batches(source, inputs, global_batch=3, seed=0, stop_step=1)
        self.assertEqual(set(batch), {"views", "index", "sound"})
        self.assertEqual(batch["sound"].shape, (3, 20))
        clips = Clips(source, inputs, 3, seed=0)
        starts = {int(clips.read(1, epoch)["sound"][1]) // 10 for epoch in range(40)}
        self.assertEqual(starts, set(range(5)))

    def test_bad_sound(self):
        inputs = Inputs((WHOLE,), frames=2, sound=20)
        with self.assertRaisesRegex(UserError, "has no sound, .* audio/CLIP.wav"):
            Clips(self.source(2), inputs, 3, 0)
        source = self.sounded(3, 3, 3, 3)
        clips, audio = Clips(source, inputs, 3, 0), source.read_sound(0).parent
        self.write(audio / "01.wav", np.zeros((30, 1)), rate=200)
        (audio / "02.wav").write_bytes(b"RIFF no")
        (audio / "03.wav").unlink()
        for clip, message in enumerate(("200 samples per second", "WAV file", "No such file"), 1):
            with self.assertRaisesRegex(UserError, f"{clip:02}.wav: .*{message}"):
                clips.read(clip, 0)

    def test_flow_is_in_pixels_of_the_crop_and_ends_with_the_clip(self):
        class Moving(ArraySource):
            moving = True
            lengths = np.array([3, 5])

            def read_frame(self, index, frame):
                return self.read(index)

            def read_flow(self, index, frame):
                return np.full((8, 16, 2), (1, 2 + frame), np.float32)

        source = Moving("a", np.zeros((2, 8, 16, 3), np.uint8))
        whole = Inputs((View((4, 4), area=(1, 1)),), frames=3, flow=True)
        flow = Clips(source, whole, 3, seed=0).read(0, 0)["flow"]
        self.assertEqual((flow.shape, flow.dtype), ((3, 4, 4, 2), np.float32))
        np.testing.assert_array_equal(flow[:, 0, 0], [(0.5, 0.5), (0.5, 0.75), (0.5, 1)])
        longer = Inputs((View((4, 4), area=(1, 1)),), frames=5, flow=True)
        flow = Clips(source, longer, 3, seed=0).read(0, 0)["flow"]
        np.testing.assert_array_equal(flow[:, 0, 0], [(0.5, 0.5), (0.5, 0.75), *3 * [(0, 0)]])

    def test_bad(self):
        images = ArraySource("a", np.zeros((4, 4, 4, 3), np.uint8))
        with self.assertRaisesRegex(UserError, "a has no frames, .* use frames:/path"):
            Clips(images, Inputs((WHOLE,), frames=2), 3, 0)
        with self.assertRaisesRegex(UserError, "has no optical flow, .* use moving_digits"):
            Clips(self.source(2), Inputs((WHOLE,), frames=2, flow=True), 3, 0)
        with self.assertRaisesRegex(UserError, "expected at least one view"):
            Clips(self.source(2), Inputs(frames=2), 3, 0)


if __name__ == "__main__":
    absltest.main()
