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
        root = Path(self.create_tempdir().full_path)
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
            frames = clips.read(0, epoch)
            self.assertEqual((frames.shape, frames.dtype), ((3, 4, 4, 3), np.uint8))
            self.assertEqual(set(frames[..., 0].flat), {0})
            start = int(frames[0, 0, 0, 1])
            np.testing.assert_array_equal(frames[:, 0, 0, 1], start + np.arange(3))
            starts.add(start)
        self.assertEqual(starts, set(range(5)))

    def test_a_short_clip_holds_its_last_frame(self):
        clips = Clips(self.source(2), Inputs((WHOLE,), frames=4), 3, seed=0)
        for epoch in range(3):
            np.testing.assert_array_equal(clips.read(0, epoch)[:, 0, 0, 1], [0, 1, 1, 1])

    def test_one_crop_for_all_frames_another_each_epoch(self):
        view = View(4, area=(0.1, 0.5))
        clips = Clips(self.source(4), Inputs((view,), frames=4), 3, seed=0)
        columns = set()
        for epoch in range(5):
            frames = clips.read(0, epoch)
            self.assertLen({f[..., 2].tobytes() for f in frames}, 1)
            columns.add(frames[0, ..., 2].tobytes())
        self.assertLen(columns, 5)

    def test_a_broken_frame_replaces_the_clip_only_where_it_is_in_the_place(self):
        source = self.source(6, 6, 6, 6, 6, 6, 6, 6, broken=[(2, 5)])
        clips = Clips(source, Inputs((WHOLE,), frames=3), 3, seed=0)
        clips_read = set()
        for epoch in range(30):
            frames = clips.read(2, epoch)
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

    def test_bad(self):
        images = ArraySource("a", np.zeros((4, 4, 4, 3), np.uint8))
        with self.assertRaisesRegex(UserError, "a has no frames, .* use frames:/path"):
            Clips(images, Inputs((WHOLE,), frames=2), 3, 0)
        with self.assertRaisesRegex(UserError, "expected at least one view"):
            Clips(self.source(2), Inputs(frames=2), 3, 0)


if __name__ == "__main__":
    absltest.main()
