"""Files of tensors: they come back as they were, and a wrong one is told in one line, unrun."""

import importlib.util
import pickle
import sys
import zipfile
from pathlib import Path
from unittest import mock

import ml_dtypes
import numpy as np
from absl.testing import absltest, parameterized

from ssl_jax.core.errors import UserError
from ssl_jax.weights import files

TENSORS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "scalar": np.array(2.5, np.float32),
    "narrow": np.array([1, 1.5, -3], ml_dtypes.bfloat16),
    "count": np.array([7], np.int64),
}


class Evil:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


class FilesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path)

    @parameterized.parameters(".safetensors", ".npz")
    def test_round_trip(self, suffix):
        path = self.folder / f"w{suffix}"
        files.write(path, TENSORS, {"method": "x", "config": '{"a": 1}'})
        found = files.read(path)
        self.assertEqual(dict(found.metadata), {"method": "x", "config": '{"a": 1}'})
        self.assertEqual(set(found.tensors), set(TENSORS))
        for name, array in TENSORS.items():
            self.assertEqual(found.tensors[name].dtype, array.dtype)
            self.assertEqual(found.tensors[name].shape, array.shape)
            np.testing.assert_array_equal(found.tensors[name], array)
        self.assertEqual([p.name for p in self.folder.iterdir()], [path.name])

    def test_the_format_is_told_by_content(self):
        files.write(self.folder / "w.safetensors", TENSORS, {})
        (self.folder / "w.safetensors").rename(self.folder / "w.pth")
        self.assertEqual(set(files.read(self.folder / "w.pth").tensors), set(TENSORS))

    @parameterized.parameters(
        ("page.pth", b"\n<!DOCTYPE html><html>404</html>", "web page"),
        ("empty.pth", b"", "is empty"),
        ("lfs.npz", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        ("text.safetensors", b"hello", "no file of weights"),
        ("noise.pth", bytes(range(3, 200)), "no file of weights"),
        ("header.safetensors", b"\xff" * 7 + b'\x00{"a"', "no whole safetensors"),
        ("zip.npz", b"PK\x03\x04 cut short", "cut short or broken"),
    )
    def test_wrong_files(self, name, content, message):
        (self.folder / name).write_bytes(content)
        self.assert_one_line(self.folder / name, message)

    @parameterized.parameters(".safetensors", ".npz")
    def test_a_file_cut_short_anywhere(self, suffix):
        path = self.folder / f"w{suffix}"
        files.write(path, TENSORS, {"k": "v"})
        whole = path.read_bytes()
        for share in (0.05, 0.3, 0.7, 0.99):
            path.write_bytes(whole[: int(len(whole) * share)])
            self.assert_one_line(path, "no whole|cut short")

    def test_folder_and_nothing(self):
        self.assert_one_line(self.folder, "is a folder")
        self.assert_one_line(self.folder / "no.npz", "no file")

    def test_no_code_is_run(self):
        mark = self.folder / "mark"
        for protocol in (2, 4):
            content = pickle.dumps({"weights": Evil(mark)}, protocol)
            (self.folder / "a.pth").write_bytes(content)
            with zipfile.ZipFile(self.folder / "b.pth", "w") as archive:
                archive.writestr("archive/data.pkl", content)
                archive.writestr("archive/data/0", b"\x00" * 8)
            for name in ("a.pth", "b.pth"):
                self.assert_one_line(self.folder / name, r"holds code \((io|_io)\.open\)")
        np.savez(self.folder / "c.npz", a=np.array([Evil(mark)], dtype=object))
        self.assert_one_line(self.folder / "c.npz", "more than plain arrays")
        self.assertFalse(mark.exists())

    def test_without_torch_it_says_how_to_convert(self):
        (self.folder / "w.pth").write_bytes(pickle.dumps({"a": 1}, 2))
        with mock.patch.dict(sys.modules, {"torch": None}):
            self.assert_one_line(self.folder / "w.pth", r"save_file\(torch.load\('w.pth', weights")

    @absltest.skipUnless(importlib.util.find_spec("torch"), "torch is not installed")
    def test_pytorch(self):
        import argparse

        import torch

        state = {"model": {"a": torch.ones(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}}
        for new in (True, False):
            torch.save(
                state | {"args": argparse.Namespace(lr=1.0), "epoch": 3},
                self.folder / "w.pth",
                _use_new_zipfile_serialization=new,
            )
            found = files.read(self.folder / "w.pth").tensors
            self.assertEqual(set(found), {"model.a", "model.b"})
            np.testing.assert_array_equal(found["model.b"], np.ones(2, np.float32))

    def test_what_cannot_be_written_leaves_nothing(self):
        with self.assertRaisesRegex(UserError, "cannot write .*nowhere"):
            files.write(self.folder / "nowhere" / "w.npz", TENSORS, {})
        with self.assertRaisesRegex(UserError, "ends in .safetensors or .npz"):
            files.write(self.folder / "w.pth", TENSORS, {})
        self.assertEqual(list(self.folder.iterdir()), [])

    def assert_one_line(self, path, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            files.read(path)
        self.assertLen(str(caught.exception).splitlines(), 1)
        self.assertIn(path.name, str(caught.exception))


if __name__ == "__main__":
    absltest.main()
