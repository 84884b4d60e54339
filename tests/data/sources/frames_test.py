from pathlib import Path

from absl.testing import absltest

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import open_source


class FramesTest(absltest.TestCase):
    def clips(self, *paths):
        root = Path(self.create_tempdir().full_path)
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(path.encode())
        return root

    def test_a_folder_is_a_clip_with_its_frames_in_order(self):
        names = ["b/f1.jpg", "b/f10.jpg", "b/f9.jpg", "a/00001.png", "a/00000.png", "a/x.txt"]
        root = self.clips(*names)
        source = open_source(f"frames:{root}")
        self.assertEqual((len(source), source.lengths.tolist()), (2, [2, 3]))
        frames = [source.read_frame(1, t) for t in range(3)]
        self.assertEqual(frames, [b"b/f1.jpg", b"b/f9.jpg", b"b/f10.jpg"])
        self.assertEqual(source.read_frame(0, 1), b"a/00001.png")
        self.assertEqual(source.read(1), frames[1])  # the middle one stands for the clip
        self.assertEqual(source.describe(1), str(root / "b"))
        self.assertIsNone(source.labels)

    def test_labels_are_the_top_folders_of_clips(self):
        root = self.clips("run/1/0.jpg", "run/2/0.jpg", "walk/1/0.jpg", "walk/1/1.jpg")
        source = open_source(f"frames:{root}")
        self.assertEqual((source.class_names, source.num_classes), (("run", "walk"), 2))
        self.assertEqual(source.labels.tolist(), [0, 0, 1])
        clip = open_source(f"frames:{root}/walk/1")
        self.assertEqual((len(clip), clip.lengths.tolist()), (1, [2]))

    def test_fingerprint(self):
        root = self.clips("a/0.jpg", "a/1.jpg")
        before = open_source(f"frames:{root}").fingerprint()
        self.assertEqual(before, open_source(f"frames:{root}").fingerprint())
        (root / "a/2.jpg").write_bytes(b"x")
        self.assertNotEqual(before, open_source(f"frames:{root}").fingerprint())

    def test_bad(self):
        for path in ("", "/nowhere"):
            with self.assertRaisesRegex(UserError, f"frames:{path}: no such folder"):
                open_source(f"frames:{path}")
        with self.assertRaisesRegex(UserError, "frames:.*: no image in or below it"):
            open_source(f"frames:{self.clips('a/readme.txt')}")

    def test_images_are_no_clips(self):
        source = open_source(f"folder:{self.clips('0.jpg')}")
        self.assertIsNone(source.lengths)
        with self.assertRaisesRegex(TypeError, "images, not clips"):
            source.read_frame(0, 0)


if __name__ == "__main__":
    absltest.main()
