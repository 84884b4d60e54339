"""Lists and captions; plain folders are tested in sources_test.py, the cache in listing_test.py."""

import json
from pathlib import Path

from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.data.sources import open_source


class FolderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        for path in ("a/1.jpg", "a/2 3.jpg", "b/4.PNG"):
            (self.root / path).parent.mkdir(exist_ok=True)
            (self.root / path).write_bytes(path.encode())

    def open_list(self, text, name="list.txt"):
        (self.root / name).write_text(text)
        return open_source(f"folder:{self.root / name}")

    @parameterized.parameters(
        ("b/4.PNG 0\na/1.jpg 2\n", [0, 2], ("0", "1", "2")),
        ("b/4.PNG,dog\r\na/1.jpg , cat\r\n", [1, 0], ("cat", "dog")),
        ("b/4.PNG\tdog\n\na/1.jpg", [0, -1], ("dog",)),
        ("b/4.PNG\na/1.jpg\n", None, ()),
    )
    def test_a_list_gives_order_and_labels(self, text, labels, names):
        source = self.open_list(text)
        self.assertEqual([source.read(0), source.read(1)], [b"b/4.PNG", b"a/1.jpg"])
        self.assertEqual(None if source.labels is None else source.labels.tolist(), labels)
        self.assertEqual(source.class_names, names)

    def test_a_mark_of_the_byte_order_is_no_part_of_a_name(self):
        """Editors of Windows write one before a UTF-8 text."""
        source = self.open_list("\ufeffb/4.PNG 1\r\na/1.jpg 0\r\n")
        self.assertEqual([source.read(0), source.read(1)], [b"b/4.PNG", b"a/1.jpg"])
        caption = '\ufeff{"file_name": "a/1.jpg", "text": "it"}'
        (self.root / "captions.jsonl").write_text(caption)
        self.assertIn(["it"], open_source(f"folder:{self.root}").captions)

    def test_names_with_spaces_and_absolute_ones(self):
        source = self.open_list(f"a/2 3.jpg\n{self.root}/a/1.jpg 5")
        self.assertEqual([source.read(0), source.read(1)], [b"a/2 3.jpg", b"a/1.jpg"])
        self.assertEqual(source.describe(1), f"{self.root}/a/1.jpg")
        self.assertEqual(source.labels.tolist(), [-1, 5])
        self.assertEqual(source.names, ["a/2 3.jpg", f"{self.root}/a/1.jpg"])

    @parameterized.parameters(
        ("", "the list is empty"),
        ("a/1.jpg 0\npath,label", "line 2 is 'path,label'; expected IMAGE or IMAGE LABEL"),
        ("1.jpg 0", "1.jpg; paths are relative to the list"),
        ("a/1.jpg -2", "label -2 at index 0 is out of range"),
    )
    def test_bad_lists(self, text, message):
        with self.assertRaisesRegex(UserError, message):
            self.open_list(text)

    def test_a_file_that_is_no_list(self):
        (self.root / "x.bin").write_bytes(b"\xff\xfe\x00\x80")
        with self.assertRaisesRegex(UserError, "neither a folder nor a list"):
            open_source(f"folder:{self.root / 'x.bin'}")

    @parameterized.parameters("captions.jsonl", "metadata.jsonl")
    def test_captions(self, name):
        lines = [
            {"file_name": "b/4.PNG", "text": "four"},
            {"file_name": "gone.jpg", "text": "gone"},
            {"file_name": "a/1.jpg", "captions": ["one", "eins"]},
            {"file_name": "b/4.PNG", "caption": "vier"},
        ]
        (self.root / name).write_text("\n".join(map(json.dumps, lines)) + "\n\n")
        source = open_source(f"folder:{self.root}")
        self.assertEqual(source.captions, [["one", "eins"], [], ["four", "vier"]])
        self.assertEqual(source.labels.tolist(), [0, 0, 1])
        listed = self.open_list("b/4.PNG")
        self.assertEqual(listed.captions, [["four", "vier"]])

    def test_no_or_bad_captions(self):
        self.assertIsNone(open_source(f"folder:{self.root}").captions)
        for text, message in (
            ('{"file_name": "a/1.jpg", "text": "x"}\n{', "line 2 is not a JSON object"),
            ("[1]", "line 1 is not a JSON object"),
            ('{"file_name": "z.jpg", "text": "x"}', "no caption of these images"),
        ):
            (self.root / "captions.jsonl").write_text(text)
            with self.assertRaisesRegex(UserError, message):
                _ = open_source(f"folder:{self.root}").captions


if __name__ == "__main__":
    absltest.main()
