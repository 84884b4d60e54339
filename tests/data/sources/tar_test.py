import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import held_out, open_source, tar


def archive(members: dict[str, str | bytes], **options) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as file:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


class TarTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        place = self.create_tempdir().full_path
        self.enterContext(mock.patch.dict(os.environ, {"SSL_JAX_CACHE": place}))

    def write(self, name="a.tar", **options) -> str:
        members = options.pop("members")
        (self.root / name).write_bytes(archive(members, **options))
        return f"tar:{self.root / name}"

    @parameterized.parameters(tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    def test_samples(self, kind):
        long = "d/" * 40 + "x" * 60 + ".é" * (kind != tarfile.USTAR_FORMAT)
        members = {
            "./a/1.jpg": b"one",
            "./a/1.cls": "2\n",
            "a/2.cls": "0",
            "a/2.txt": " a dog ",
            "a/2.PNG": b"two",
            "a/2.seg.png": b"two's mask",
            "b/1.json": json.dumps({"label": 1, "caption": ["x", "y"]}),
            "b/1.webp": b"three",
            "b/only.txt": "no image",
            "b/._1.jpg": b"of a Mac",
            f"{long}.jpg": b"four",
        }
        source = open_source(self.write(members=members, format=kind))
        self.assertEqual([source.read(i) for i in range(4)], [b"one", b"two", b"three", b"four"])
        self.assertEqual(source.labels.tolist(), [2, 0, 1, -1])
        self.assertEqual(source.class_names, ("0", "1", "2"))
        self.assertEqual(source.captions, [[], ["a dog"], ["x", "y"], []])
        self.assertEqual(source.describe(1), f"a/2.PNG in {self.root}/a.tar")
        self.assertEqual((len(source), source.arrays), (4, None))

    def test_no_image_is_left_out_in_silence(self):
        frames = {f"shots.v2/{s}.{k:04}.png": f"{s}{k}" for s in ("run", "walk") for k in range(3)}
        frames["shots.v2/run.0001.txt"] = "it runs"
        frames["shots.v2/walk.cls"] = "7"
        source = open_source(self.write(members=frames))
        self.assertEqual([source.read(i) for i in (0, 5)], [b"run0", b"walk2"])
        self.assertEqual(source.captions, [[], ["it runs"], [], [], [], []])
        self.assertEqual(source.labels.tolist(), [-1, -1, -1, 7, 7, 7])
        self.assertEqual(dict(source.left_out), {})
        stereo = {f"{k}.{s}.png": f"{k}{s}" for k in range(2) for s in ("left", "right")}
        stereo |= {"0.cls": "3", "1.cls": "4"}
        source = open_source(self.write("b.tar", members=stereo))
        self.assertEqual((len(source), source.labels.tolist()), (4, [3, 3, 4, 4]))
        masks = {"1.mask.png": b"m", "1.png": b"i", "1.npy": b"n", "2.jpg": b"j", "2.png": b"k"}
        for _ in range(2):  # scanned, and remembered
            source = open_source(self.write("c.tar", members=masks))
            self.assertEqual([source.read(i) for i in range(2)], [b"i", b"j"])
            more = "further images of samples that have NAME.ENDING"
            want = {more: 2, "files with other endings (1 .npy)": 1}
            self.assertEqual(dict(source.left_out), want)

    def test_labels_of_json(self):
        labels = (1.0, float("nan"), True, None, 0)
        members = {f"{i}.json": json.dumps({"label": x}) for i, x in enumerate(labels)}
        source = open_source(self.write(members=members | {f"{i}.jpg": b"" for i in range(5)}))
        self.assertEqual(source.labels.tolist(), [1, -1, 1, -1, 0])
        members = {"0.json": '{"label": [1, 2]}', "1.json": "[", "0.jpg": b"", "1.jpg": b""}
        source = open_source(self.write(members=members))
        self.assertIsNone(source.labels)
        why = "labels in .json, neither whole number nor text"
        self.assertEqual(source.left_out, {why: 1, ".json files without an object": 1})

    def test_texts_with_halves_of_characters(self):
        members = {"0.json": '{"label": "\\ud800", "text": "a \\udfff"}', "0.jpg": b""}
        source = open_source(self.write(members=members))
        self.assertEqual((source.class_names, source.captions), (("?",), [["a ?"]]))
        source.fingerprint()

    def test_val_is_held_out(self):
        members = {f"{t}/{c}/1.jpg": f"{t}{c}" for t in ("Training", "Testing") for c in "pq"}
        spec = self.write(members=members)
        train, held = open_source(spec), held_out(spec)
        self.assertEqual([train.read(i) for i in range(2)], [b"Trainingp", b"Trainingq"])
        self.assertEqual(held.name, f"{spec}#Testing")
        self.assertEqual(list(held.names), ["Testing/p/1.jpg", "Testing/q/1.jpg"])
        self.assertLen(open_source(f"{spec}#."), 4)

    def test_fingerprint_sees_pixels_and_captions(self):
        made = []
        for pixels, text in (("x", "a"), ("y", "a"), ("y", "b")):
            spec = self.write(members={"1.jpg": pixels * 700, "1.txt": text})
            os.utime(self.root / "a.tar", (len(made) + 1, 1))  # within a tick of the clock else
            source = open_source(spec)
            made.append((source.fingerprint(), source.layout()))
        self.assertEqual([len(set(prints)) for prints in zip(*made, strict=True)], [3, 1])

    def test_labels_of_folders_and_a_part(self):
        members = {f"{s}/{c}/{i}.jpg": f"{s}{c}{i}" for s in "xy" for c in "pq" for i in range(2)}
        spec = self.write(members=members)
        whole, part = open_source(spec), open_source(spec + "#y/")
        self.assertEqual((len(whole), whole.class_names), (8, ("x", "y")))
        self.assertEqual((len(part), part.class_names), (4, ("p", "q")))
        self.assertEqual([part.read(i) for i in (0, 3)], [b"yp0", b"yq1"])
        self.assertIsNone(part.captions)
        self.assertNotEqual(whole.fingerprint(), part.fingerprint())
        with self.assertRaisesRegex(UserError, "no image in it; expected jpg"):
            open_source(spec + "#z")

    def test_shards_with_names_as_labels(self):
        for s in range(3):
            self.write(f"s{s}.tar", members={"1.cls": "cdb"[s], "1.jpg": b"%d" % s})
        source = open_source(f"tar:{self.root}/s*.tar")
        self.assertEqual([source.read(i) for i in range(3)], [b"0", b"1", b"2"])
        self.assertEqual((source.labels.tolist(), source.class_names), ([1, 2, 0], ("b", "c", "d")))
        self.assertEqual(open_source(f"tar:{self.root}").fingerprint(), source.fingerprint())

    def test_an_archive_is_indexed_once_until_it_changes(self):
        spec = self.write(members={"1.jpg": b"x", "1.txt": "é"})
        first = open_source(spec)
        with mock.patch.object(tar, "_scan", side_effect=AssertionError):
            again = open_source(spec)
        self.assertEqual((again.read(0), again.captions), (b"x", [["é"]]))
        self.assertEqual(again.fingerprint(), first.fingerprint())
        self.write(members={"1.jpg": b"y", "2.jpg": b"z"})
        self.assertEqual([open_source(spec).read(i) for i in range(2)], [b"y", b"z"])

    def test_nothing_leaves_the_archive(self):
        secret = self.root / "secret.jpg"
        secret.write_bytes(b"secret")
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as file:
            for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE)):
                link = tarfile.TarInfo(name)
                link.type, link.linkname = kind, str(secret)
                file.addfile(link)
            for name in ("../up.jpg", str(secret)):
                info = tarfile.TarInfo(name)
                info.size = 2
                file.addfile(info, io.BytesIO(b"in"))
        (self.root / "x.tar").write_bytes(out.getvalue())
        before = sorted(self.root.rglob("*"))
        source = open_source(f"tar:{self.root / 'x.tar'}")
        self.assertEqual([source.read(i) for i in range(len(source))], [b"in", b"in"])
        self.assertEqual(sorted(self.root.rglob("*")), before)
        self.assertEqual(secret.read_bytes(), b"secret")

    def test_gzip(self):
        data = archive({"a/1.jpg": b"one", "b/1.jpg": b"two"})
        file = self.root / "a.tar.gz"
        file.write_bytes(gzip.compress(data))
        source = open_source(f"tar:{file}")
        self.assertEqual([source.read(0), source.read(1)], [b"one", b"two"])
        self.assertEqual(source.class_names, ("a", "b"))
        with (
            mock.patch.object(tar, "MEMORY_LIMIT", len(data) - 1),
            self.assertRaisesRegex(UserError, "compressed archive .* gunzip it first"),
        ):
            open_source(f"tar:{file}")
        file.write_bytes(gzip.compress(data)[:-20])
        with self.assertRaisesRegex(UserError, "not a complete gzip file"):
            open_source(f"tar:{file}")

    def test_a_file_cut_short_or_damaged(self):
        spec = self.write(members={f"{i}.jpg": bytes([i]) * 700 for i in range(1, 4)})
        file = self.root / "a.tar"
        whole = file.read_bytes()
        second, third = 512 + 1024, 2 * (512 + 1024)
        bad_header = whole[:second] + b"\xff" * 512 + whole[second + 512 :]
        for data in (whole[: third + 600], whole[: second + 100], bad_header, b"", b"x" * 2000):
            file.write_bytes(data)
            with self.assertRaisesRegex(UserError, "not a complete tar file|is corrupt at byte"):
                open_source(spec)
        file.write_bytes(whole[: 3 * (512 + 1024)])  # no end mark, as some writers leave it
        self.assertLen(open_source(spec), 3)

    def test_cut_after_it_was_opened(self):
        source = open_source(self.write(members={"1.jpg": b"x" * 700, "2.jpg": b"y" * 700}))
        os.truncate(self.root / "a.tar", 2500)
        self.assertEqual(source.read(0), b"x" * 700)
        with self.assertRaisesRegex(OSError, "ends within the image"):
            source.read(1)

    def test_labels_out_of_range(self):
        spec = self.write(members={"1.jpg": b"", "1.cls": "-3"})
        with self.assertRaisesRegex(UserError, "label -3 at index 0 is out of range"):
            open_source(spec)

    def test_no_file(self):
        for path, message in (
            ("/nowhere/*.tar", "no such file"),
            ("gs://bucket/x.tar", "expected local tar files"),
        ):
            with self.assertRaisesRegex(UserError, message):
                open_source(f"tar:{path}")

    def test_any_order(self):
        source = open_source(self.write(members={f"{i:04}.jpg": b"%d" % i for i in range(300)}))
        order = np.random.default_rng(0).permutation(300)
        self.assertEqual([int(source.read(int(i))) for i in order], order.tolist())


if __name__ == "__main__":
    absltest.main()
