import contextlib
import shutil
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import (
    ArraySource,
    absolute,
    held_out,
    left_out,
    left_out_is_shown,
    open_source,
    shifted_digits,
)
from ssl_jax.data.sources.folder import top_folders

TRAIN_FINGERPRINT = "9c1006658e6f0b5423ef5470deda752b"


class DigitsTest(absltest.TestCase):
    def test_split_is_fixed_and_disjoint(self):
        from sklearn.datasets import load_digits

        train, held = open_source("digits"), open_source("digits", "eval")
        self.assertEqual((len(train), len(held)), (1437, 360))
        self.assertEqual((train.arrays.shape[1:], train.arrays.dtype), ((8, 8, 1), np.uint8))
        self.assertEqual((train.num_classes, train.labels.dtype), (10, np.int32))
        self.assertEqual(train.layout(), TRAIN_FINGERPRINT)  # the split never changes
        self.assertTrue(train.matches(TRAIN_FINGERPRINT))  # that of runs of before version 2
        self.assertTrue(train.matches(train.fingerprint()))
        self.assertFalse(train.matches("3:0"))

        def rows(pixels):
            return sorted(bytes(p) for p in np.ascontiguousarray(pixels))

        both = np.concatenate([train.arrays, held.arrays])[..., 0]
        original = np.round(load_digits().images * 255 / 16).astype(np.uint8)
        self.assertEqual(rows(both), rows(original))
        self.assertNotEqual(train.fingerprint(), held.fingerprint())

    def test_held_out(self):
        self.assertLen(held_out("digits"), 360)
        self.assertIsNone(held_out("npz:/nowhere.npz"))

    def test_before_photographs(self):
        """The digits, their split and masks are those of `digits`; only the black is replaced."""
        for split in ("train", "eval"):
            plain, before = (open_source(f"digits{path}", split) for path in ("", ":photos"))
            masks = np.stack([before.read_mask(i) for i in range(len(before))])
            np.testing.assert_array_equal(masks > 0, plain.arrays[..., 0] > 0)
            np.testing.assert_array_equal(before.arrays[masks > 0], plain.arrays[masks > 0])
            np.testing.assert_array_equal(before.labels, plain.labels)
            self.assertGreater(before.arrays[masks == 0].std(), 20)
            again = open_source("digits:photos", split)
            self.assertEqual(before.fingerprint(), again.fingerprint())
        self.assertLen(held_out("digits:photos"), 360)
        self.assertEqual(absolute("digits:photos"), "digits:photos")

    def test_black_on_white(self):
        plain, inverted = (open_source(f"digits{path}", "eval") for path in ("", ":inverted"))
        np.testing.assert_array_equal(inverted.arrays, 255 - plain.arrays)
        np.testing.assert_array_equal(inverted.labels, plain.labels)
        self.assertEqual(inverted.name, "digits:inverted")

    def test_another_path(self):
        with self.assertRaisesRegex(UserError, "expected 'digits', 'digits:photos' or"):
            open_source("digits:/x")


class ShiftedDigitsTest(parameterized.TestCase):
    @parameterized.parameters("noise", "blur", "contrast", "brightness", "pixelate")
    def test_severities(self, kind):
        """They are the digits, the further from them the severer, and the same each time."""
        plain = open_source("digits", "eval")
        changes = []
        for severity in (1, 2, 3):
            source = open_source(f"shifted_digits:{kind}-{severity}", "eval")
            self.assertEqual(source.arrays.dtype, np.uint8)
            np.testing.assert_array_equal(source.labels, plain.labels)
            self.assertEqual(source.class_names, plain.class_names)
            changes.append(np.abs(source.arrays.astype(int) - plain.arrays).mean())
            again = open_source(f"shifted_digits:{kind}-{severity}", "eval")
            np.testing.assert_array_equal(again.arrays, source.arrays)
        self.assertEqual(changes, sorted(set(changes)))
        self.assertGreater(changes[0], 3)

    def test_by_hand(self):
        image = np.zeros((1, 8, 8))
        image[0, 3, 4] = 1
        np.testing.assert_allclose(
            shifted_digits.blur(image, 1)[0, 2:5, 3:6], np.outer([1, 2, 1], [1, 2, 1]) / 16
        )
        self.assertAlmostEqual(shifted_digits.contrast(image, 2)[0, 3, 4], 0.25 + 0.75 / 64)
        np.testing.assert_allclose(shifted_digits.pixelate(image, 1)[0, 2:4, 4:6], 0.25)
        draws = shifted_digits.noise(np.zeros((500, 8, 8)), 2)
        self.assertAlmostEqual(draws.std(), 0.2, delta=0.003)
        self.assertAlmostEqual(draws.mean(), 0, delta=0.003)

    def test_other_names(self):
        self.assertLen(held_out("shifted_digits:blur-1"), 360)
        self.assertEqual(absolute("shifted_digits:blur-1"), "shifted_digits:blur-1")
        for path in ("", ":fog-1", ":blur", ":blur-4", ":blur-1-2"):
            with self.assertRaisesRegex(UserError, "expected KIND-SEVERITY, KIND one of noise, bl"):
                open_source(f"shifted_digits{path}")


class SchemeTest(parameterized.TestCase):
    @parameterized.parameters("", "digit", "zip:/x", "/no/path", "base:/x")
    def test_unknown(self, spec):
        schemes = "array_record:PATH, arrow:PATH, coco:PATH, control:PATH, csv:PATH, digits, "
        with self.assertRaisesRegex(UserError, f"expected one of {schemes}"):
            open_source(spec)

    def test_a_path_that_exists_needs_no_scheme(self):
        root = Path(self.create_tempdir().full_path)
        Image.new("RGB", (8, 8)).save(root / "1.png")
        np.savez(root / "x.npz", x=np.zeros((2, 4, 4, 3), np.uint8))
        (root / "list.txt").write_text("1.png\n")
        for path, scheme in (("", "folder"), ("/x.npz", "npz"), ("/list.txt", "folder")):
            self.assertEqual(open_source(f"{root}{path}").name, f"{scheme}:{root}{path}")
            self.assertEqual(absolute(f"{root}{path}"), f"{scheme}:{root}{path}")
        with self.assertRaisesRegex(UserError, "no such file or folder; expected one of"):
            open_source("/nowhere/images")
        np.save(root / "x.npy", np.zeros((2, 4, 4, 3), np.uint8))
        for name in ("x.npy", "1.png"):
            with self.assertRaisesRegex(UserError, f"{name}': a file of another kind; expected"):
                open_source(f"{root}/{name}")

    def test_a_folder_of_a_built_in_name_is_told_from_it(self):
        root = Path(self.create_tempdir().full_path)
        (root / "photos").mkdir()
        Image.new("RGB", (8, 8)).save(root / "photos" / "1.png")
        with contextlib.chdir(root), self.assertLogs("absl", "WARNING") as logged:
            self.assertLen(open_source("photos"), 900)
            self.assertLen(open_source("./photos"), 1)
            shutil.copytree("photos", "coco")  # no built-in data: a scheme that needs a path
            self.assertEqual(open_source("coco").name, "folder:coco")
        line = "photos: the built-in data of this name; write ./photos for what is here"
        self.assertEqual([r.getMessage() for r in logged.records], [line])

    def test_absolute(self):
        here = Path.cwd()
        for spec, want in (
            ("folder:a/b", f"folder:{here}/a/b"),
            ("mix:0.5*folder:a+npz:b.npz", f"mix:0.5*folder:{here}/a+npz:{here}/b.npz"),
            ("parquet:x/*.parquet#image=a", f"parquet:{here}/x/*.parquet#image=a"),
            ("tfds:./x/1.0.0:train", f"tfds:{here}/x/1.0.0:train"),
        ):
            self.assertEqual(absolute(spec), want)
            self.assertEqual(absolute(want), want)
        for spec in ("digits", "tfds:mnist:train", "parquet:gs://b/*", "nothing", "mix:digits"):
            self.assertEqual(absolute(spec), spec)

    def test_names_the_nearest(self):
        with self.assertRaisesRegex(UserError, "did you mean 'folder'"):
            open_source("foldr:/x")


class NpzTest(parameterized.TestCase):
    def save(self, **arrays):
        path = Path(self.create_tempdir().full_path) / "set.npz"
        np.savez(path, **arrays)
        return f"npz:{path}"

    def test_images_and_labels(self):
        x = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
        source = open_source(self.save(images=x, y=np.array([[2], [0]])))
        np.testing.assert_array_equal(source.arrays, x)
        np.testing.assert_array_equal(source.labels, [2, 0])
        self.assertEqual((source.num_classes, source.labels.dtype), (3, np.int32))
        np.testing.assert_array_equal(source.read(1), x[1])
        self.assertIn("index 1", source.describe(1))

    def test_numbers_of_other_types(self):
        for dtype, top in ((np.uint16, 4095), (np.float32, 1), (np.int64, 255), (bool, 1)):
            x = np.broadcast_to(np.linspace(0, top, 16).astype(dtype)[:, None], (2, 16, 16))
            images = open_source(self.save(x=x)).arrays
            self.assertEqual((images.dtype, images.shape), (np.uint8, (2, 16, 16, 1)))
            self.assertEqual((images.min(), images.max()), (0, 255))

    def test_grey_without_labels(self):
        source = open_source(self.save(x=np.zeros((3, 4, 4), np.uint8)))
        self.assertEqual(source.arrays.shape, (3, 4, 4, 1))
        self.assertIsNone(source.labels)
        self.assertEqual(source.num_classes, 0)

    @parameterized.named_parameters(
        ("complex", {"x": np.zeros((2, 4, 4, 3), complex)}, "complex128; expected numbers"),
        ("shape", {"x": np.zeros((2, 4), np.uint8)}, r"shape \(2, 4\)"),
        ("empty", {"x": np.zeros((0, 4, 4, 3), np.uint8)}, r"shape \(0, 4, 4, 3\)"),
        ("channels_first", {"x": np.zeros((2, 3, 8, 8), np.uint8)}, "channels-first"),
        (
            "bands_first",
            {"x": np.zeros((2, 13, 16, 17), np.uint16)},
            r"channels-first \(C 13, H 16, W 17\)",
        ),
        ("no_images", {"z": np.zeros(3)}, "expected one named image or images or x, got z"),
        ("pickle", {"x": np.array([None, {}])}, "not a readable"),
        (
            "mask_count",
            {"x": np.zeros((2, 4, 4, 3), np.uint8), "masks": np.zeros((1, 4, 4), np.uint8)},
            "1 masks of 2 images; give one for each",
        ),
        (
            "label_length",
            {"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.zeros(3, int)},
            r"labels of shape \(2,\), one per image, got \(3,\)",
        ),
        (
            "label_type",
            {"x": np.zeros((2, 4, 4, 3), np.uint8), "y": np.array([b"a", b"b"])},
            "S1; expected whole numbers",
        ),
    )
    def test_bad(self, arrays, message):
        with self.assertRaisesRegex(UserError, message):
            open_source(self.save(**arrays))

    def test_labels_by_name(self):
        x = np.zeros((3, 4, 4, 3), np.uint8)
        source = open_source(self.save(x=x, y=np.array(["dog", "", "cat"])))
        np.testing.assert_array_equal(source.labels, [1, -1, 0])
        self.assertEqual(source.class_names, ("cat", "dog"))

    def test_missing_or_no_npz(self):
        array = self.create_tempfile("x.npy").full_path
        with self.assertRaisesRegex(UserError, r"one array, not an .npz file; np.savez"):
            open_source(f"npz:{array}")
        with self.assertRaisesRegex(UserError, "no such file"):
            open_source("npz:/nowhere/x.npz")
        with self.assertRaisesRegex(UserError, "not a readable"):
            open_source("npz:" + self.create_tempfile(content="text").full_path)


class FolderTest(absltest.TestCase):
    def tree(self, *paths):
        root = Path(self.create_tempdir().full_path)
        for i, path in enumerate(paths):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            if path.lower().endswith(("jpg", "png")):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(root / path)
            else:
                (root / path).write_text("no image")
        return root

    def test_labels_are_the_top_folders(self):
        root = self.tree("cat/b.png", "cat/deep/a.JPG", "dog/z.png", "dog/note.txt", "cat/._b.png")
        source = open_source(f"folder:{root}")
        self.assertEqual(source.class_names, ("cat", "dog"))
        np.testing.assert_array_equal(source.labels, [0, 0, 1])
        names = [str(Path(source.describe(i)).relative_to(root)) for i in range(3)]
        self.assertEqual(names, ["cat/b.png", "cat/deep/a.JPG", "dog/z.png"])
        self.assertEqual(source.read(2), (root / "dog/z.png").read_bytes())
        self.assertIsNone(source.arrays)

    def test_levels_without_a_class_are_passed_over(self):
        for paths in (
            ["train/b/1.png", "train/a/1.png", "val/a/2.png"],
            ["set/train/b/1.png", "set/test/a/x/1.png", "set/test/a/2.png"],
        ):
            labels, names = top_folders(paths)
            self.assertEqual((labels.tolist(), names), ([1, 0, 0], ("a", "b")))
        self.assertEqual(top_folders(["train/1.png", "test/1.png"]), (None, ()))

    def test_no_labels_with_an_image_at_the_top_or_one_folder(self):
        for paths in (("cat/a.png", "dog/a.png", "b.png"), ("all/a.png", "all/b.png")):
            source = open_source(f"folder:{self.tree(*paths)}")
            self.assertIsNone(source.labels)
            self.assertEqual((len(source), source.num_classes), (len(paths), 0))

    def test_links_are_followed_but_not_round_and_round(self):
        other, root = self.tree("x.png"), self.tree("a/b.png")
        (root / "a" / "up").symlink_to(root)
        (root / "linked").symlink_to(other)
        (root / "dangling.png").symlink_to(root / "gone.png")
        source = open_source(f"folder:{root}")
        names = [str(Path(source.describe(i)).relative_to(root)) for i in range(len(source))]
        self.assertEqual(names, ["a/b.png", "linked/x.png"])

    def test_train_and_val(self):
        paths = [f"{top}/{c}/{i}.png" for top in ("train", "val") for c in "ab" for i in range(2)]
        spec = f"folder:{self.tree(*paths, 'train/a/x.heic')}"
        train, held, whole = open_source(spec), held_out(spec), open_source(f"{spec}#.")
        self.assertEqual((len(train), len(held), len(whole)), (4, 4, 8))
        self.assertEqual(train.names, paths[:4])
        self.assertEqual((held.names, held.name), (paths[4:], f"{spec}#val"))
        self.assertEqual(open_source(held.name).fingerprint(), held.fingerprint())
        self.assertEqual(train.class_names, ("a", "b"))
        why = ("images in val/, held out for evaluation", "files with other endings (1 .heic)")
        self.assertEqual(train.left_out, {why[0]: 4, why[1]: 1})
        self.assertIsNone(held_out(f"{spec}#."))
        with self.assertRaisesRegex(UserError, "no image in .*/other"):
            open_source(f"{spec}#other")

    def test_what_is_left_out_is_logged_once(self):
        root = self.tree("a.png", "b.png", "c.heic")
        with self.assertLogs("absl") as logs:
            open_source(f"folder:{root}")
        self.assertIn("left out 1 file with other endings (1 .heic)", logs.output[0])
        with self.assertNoLogs("absl"):
            open_source(f"folder:{root}")

    def test_what_is_shown_is_not_logged_too(self):
        spec = f"folder:{self.tree('a.png', 'b.heic')}"
        with self.assertNoLogs("absl"), left_out_is_shown():
            self.assertEqual(left_out(open_source(spec)), ["1 file with other endings (1 .heic)"])
        with self.assertLogs("absl") as logs, self.assertRaises(UserError), left_out_is_shown():
            open_source(spec)
            raise UserError("before it was shown")
        self.assertLen(logs.output, 1)

    def test_fingerprint_sees_pixels_labels_and_captions_and_no_times(self):
        root = self.tree("a.png", "b.png")
        before = open_source(f"folder:{root}")
        copy = Path(self.create_tempdir().full_path) / "copy"
        shutil.copytree(root, copy, copy_function=shutil.copyfile)
        fingerprint, layout = before.fingerprint(), before.layout()
        self.assertTrue(open_source(f"folder:{copy}").matches(fingerprint))
        data = bytearray((root / "a.png").read_bytes())
        data[len(data) // 2] ^= 1
        (root / "a.png").write_bytes(data)
        after = open_source(f"folder:{root}")
        self.assertFalse(after.matches(fingerprint))
        self.assertTrue(after.matches(layout))  # as runs of before have it
        prints = [after.fingerprint()]
        for text in ("one", "two"):
            (root / "captions.jsonl").write_text(f'{{"file_name": "a.png", "text": "{text}"}}')
            prints.append(open_source(f"folder:{root}").fingerprint())
        for label in "xy":
            (root / "list.txt").write_text(f"a.png {label}\nb.png z\n")
            prints.append(open_source(f"folder:{root}/list.txt").fingerprint())
        self.assertLen(set(prints), 5)

    def test_fingerprint_of_arrays_sees_class_names_and_captions(self):
        pixels, labels = np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 1])
        made = [
            ArraySource("x", pixels, labels, names, captions).fingerprint()
            for names in (("a", "b"), ("b", "a"))
            for captions in (None, [["x"], []], [[], ["x"]])
        ]
        self.assertLen(set(made), 6)

    def test_fingerprint_sees_names_and_sizes(self):
        root = self.tree("a.png", "b.png")
        before = open_source(f"folder:{root}").fingerprint()
        self.assertEqual(before, open_source(f"folder:{root}").fingerprint())
        with (root / "a.png").open("ab") as f:
            f.write(b"more")
        grown = open_source(f"folder:{root}").fingerprint()
        (root / "b.png").rename(root / "c.png")
        self.assertLen({before, grown, open_source(f"folder:{root}").fingerprint()}, 3)

    def test_missing_or_empty(self):
        for spec in ("folder:", "folder:/nowhere"):
            with self.assertRaisesRegex(UserError, "no such folder"):
                open_source(spec)
        with self.assertRaisesRegex(UserError, "no image in or below it; expected jpg"):
            open_source(f"folder:{self.tree('a/readme.txt')}")


if __name__ == "__main__":
    absltest.main()
